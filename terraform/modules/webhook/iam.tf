# The rights of docs/aws.md, line by line: what the webhook's code calls.
locals {
  change_queue_arns = [for one in values(var.data.change_queues) : one.arn]
  wake_up_arns      = concat(local.change_queue_arns, [for one in ["create", "update", "delete"] : var.data.queues[one].arn])
  dead_letter_arn   = var.data.queues["dead_letter"].arn

  secret_statements = length(local.secret_arns) == 0 ? [] : [{
    sid       = "ReadSecrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = local.secret_arns
  }]

  statements = concat(local.secret_statements, [
    {
      sid       = "LookAtQueues"
      actions   = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
      resources = concat(local.wake_up_arns, [local.dead_letter_arn])
    },
    {
      # Create and update, too: a dead letter is redriven to the queue that it came from.
      sid       = "SendWakeUps"
      actions   = ["sqs:SendMessage"]
      resources = local.wake_up_arns
    },
    {
      sid       = "HandleDeadLetters"
      actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
      resources = [local.dead_letter_arn]
    },
    {
      sid = "KeepRows"
      actions = [
        "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query",
        "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:BatchWriteItem",
      ]
      resources = [var.data.table.arn, "${var.data.table.arn}/index/*"]
    },
    {
      # Without a condition on the prefix: with one, S3 answers 403 instead of 404 for what is not there.
      sid       = "ListBlobs"
      actions   = ["s3:ListBucket", "s3:GetBucketVersioning"]
      resources = [var.data.blobs.arn]
    },
    {
      sid       = "KeepBlobs"
      actions   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
      resources = ["${var.data.blobs.arn}/${var.data.blobs.prefix}/*"]
    },
  ])
}
