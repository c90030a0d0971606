data "aws_caller_identity" "current" {}

locals {
  tls_only = {
    for key, queue in local.queues : key => {
      Sid       = "RefuseWithoutTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = queue.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }
  }
  # The account beside the ARN: a bucket's name can be taken by somebody else once it is removed.
  landing_sends = {
    Sid       = "LandingBucketSends"
    Effect    = "Allow"
    Principal = { Service = "s3.amazonaws.com" }
    Action    = "sqs:SendMessage"
    Resource  = aws_sqs_queue.worked["intake"].arn
    Condition = {
      ArnEquals    = { "aws:SourceArn" = var.landing_bucket_arn }
      StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id }
    }
  }
}

resource "aws_sqs_queue_policy" "this" {
  for_each = local.queues

  queue_url = each.value.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [local.tls_only[each.key]],
      [for statement in [local.landing_sends] : statement if each.key == "intake" && var.landing_bucket_arn != null],
    )
  })
}
