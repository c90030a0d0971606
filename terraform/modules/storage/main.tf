locals {
  buckets = {
    blobs   = var.blobs_bucket_name
    landing = var.landing_bucket_name
  }
  prefix = "store"
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_144:Versions guard against mistakes; a copy in another region is the choice of who pays for it twice.
  #checkov:skip=CKV_AWS_145:Encrypted in aws_s3_bucket_server_side_encryption_configuration.this; kms_key_arn gives a customer managed key, which costs a dollar a month and money for each thousand calls.
  #checkov:skip=CKV_AWS_18:Access logs are written where access_log_bucket_name is given.
  #checkov:skip=CKV2_AWS_61:Both have lifecycle rules, in lifecycle.tf; the check does not see which bucket of a for_each they are of.
  #checkov:skip=CKV2_AWS_62:The landing bucket notifies the intake queue; nobody waits for blobs.
  for_each = local.buckets

  bucket        = each.value
  force_destroy = var.force_destroy
  tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

# Without versions the product never removes old blobs: it could not promise that a write in the same
# moment survives.
resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [local.refuse_without_tls[each.key]]
  })

  # S3 refuses to change both of one bucket at once.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

locals {
  refuse_without_tls = {
    for key, bucket in aws_s3_bucket.this : key => {
      Sid       = "RefuseWithoutTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [bucket.arn, "${bucket.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }
  }
}

# Both kinds of removal: with versions a plain delete leaves a marker. What a lifecycle rule removes is
# not among them, so that it deletes no document.
resource "aws_s3_bucket_notification" "landing" {
  bucket = aws_s3_bucket.this["landing"].id

  queue {
    id            = "incoming"
    queue_arn     = var.intake_queue_arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = "incoming/"
  }

  queue {
    id            = "removed"
    queue_arn     = var.intake_queue_arn
    events        = ["s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"]
    filter_prefix = "processed/"
  }
}
