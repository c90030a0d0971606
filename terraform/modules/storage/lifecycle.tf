resource "aws_s3_bucket_lifecycle_configuration" "blobs" {
  #checkov:skip=CKV_AWS_300:The rule unfinished-uploads-go does, for the whole bucket; checkov loses it beside a dynamic rule.
  bucket = aws_s3_bucket.this["blobs"].id
  # Smaller objects stay where they are: colder classes charge 128 KiB for each, and a move is a request.
  transition_default_minimum_object_size = "all_storage_classes_128K"

  dynamic "rule" {
    for_each = length(var.raw_transitions) == 0 ? [] : [var.raw_transitions]

    content {
      id     = "contents-grow-cold"
      status = "Enabled"

      filter {
        prefix = var.raw_transition_minimum_bytes == null ? "${local.prefix}/raw/" : null

        dynamic "and" {
          for_each = var.raw_transition_minimum_bytes == null ? [] : [var.raw_transition_minimum_bytes]

          content {
            prefix                   = "${local.prefix}/raw/"
            object_size_greater_than = and.value - 1
          }
        }
      }

      dynamic "transition" {
        for_each = rule.value

        content {
          days          = transition.value.days
          storage_class = transition.value.storage_class
        }
      }
    }
  }

  # A pack is superseded when its document changes; the sweeper removes it, and its versions go here.
  rule {
    id     = "removed-blobs-go"
    status = "Enabled"

    filter {
      prefix = "${local.prefix}/"
    }

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "unfinished-uploads-go"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_multipart_days
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "landing" {
  bucket = aws_s3_bucket.this["landing"].id

  rule {
    id     = "moved-files-go"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "unfinished-uploads-go"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_multipart_days
    }
  }

  dynamic "rule" {
    for_each = { for area, days in { processed = var.processed_expiration_days, failed = var.failed_expiration_days } : area => days if days != null }

    content {
      id     = "${rule.key}-files-go"
      status = "Enabled"

      filter {
        prefix = "${rule.key}/"
      }

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}
