# The rights of docs/aws.md, line by line: what the code of each role calls.
locals {
  change_queue_arns = [for one in values(var.data.change_queues) : one.arn]
  worked_arns       = { for one in ["create", "update", "delete", "intake"] : one => var.data.queues[one].arn }
  wake_up_arns      = concat(local.change_queue_arns, [for one in ["create", "update", "delete"] : local.worked_arns[one]])
  dead_letter_arn   = var.data.queues["dead_letter"].arn
  blob_arns         = ["${var.data.blobs.arn}/${var.data.blobs.prefix}/*"]

  statements = {
    for key in keys(local.functions) : key => concat(
      length(local.secret_arns[key]) == 0 ? [] : [{
        sid       = "ReadSecrets"
        actions   = ["secretsmanager:GetSecretValue"]
        resources = local.secret_arns[key]
      }],
      local.shared_statements,
      contains(local.mapped, key) ? [{
        sid       = "WorkQueue"
        actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
        resources = [local.worked_arns[key]]
      }] : [],
      length(local.sends[key]) == 0 ? [] : [{
        sid       = "SendMessages"
        actions   = ["sqs:SendMessage"]
        resources = local.sends[key]
      }],
      length(local.blob_actions[key]) == 0 ? [] : [{
        sid       = "KeepBlobs"
        actions   = local.blob_actions[key]
        resources = local.blob_arns
      }],
      contains(["create", "update"], key) ? local.pack_statements : [],
      key == "sweep" ? local.sweep_statements : [],
      key == "intake" ? local.landing_statements : [],
    )
  }

  # A start looks at everything that is set, whether the role needs it or not.
  shared_statements = [
    {
      sid       = "LookAtQueues"
      actions   = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
      resources = concat(local.wake_up_arns, [local.dead_letter_arn])
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
  ]

  # A consumer sends copies to its own queue, wakes later versions, and gives up into the dead
  # letters. The scrub on a schedule repairs nothing.
  consumer_sends = concat(local.change_queue_arns, [local.dead_letter_arn])
  sends = {
    create = concat([local.worked_arns["create"]], local.consumer_sends)
    update = concat([local.worked_arns["update"]], local.consumer_sends)
    delete = concat([local.worked_arns["delete"]], local.consumer_sends)
    intake = concat(local.change_queue_arns, [local.worked_arns["delete"], local.worked_arns["intake"]])
    sweep  = concat(local.change_queue_arns, [local.worked_arns["delete"], local.dead_letter_arn])
    scrub  = []
  }

  blob_actions = {
    create = ["s3:GetObject"]
    update = ["s3:GetObject"]
    delete = []
    intake = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    sweep  = ["s3:DeleteObjectVersion"]
    scrub  = ["s3:GetObject"]
  }

  pack_statements = [{
    sid       = "RemoveTornPacks"
    actions   = ["s3:DeleteObject"]
    resources = ["${var.data.blobs.arn}/${var.data.blobs.prefix}/packs/*"]
  }]

  sweep_statements = [
    {
      sid       = "AdoptDeadLetters"
      actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
      resources = [local.dead_letter_arn]
    },
    {
      sid       = "ListBlobVersions"
      actions   = ["s3:ListBucketVersions"]
      resources = [var.data.blobs.arn]
    },
  ]

  landing_statements = [
    {
      # It puts back what is out of reach.
      sid       = "FindIntakeQueue"
      actions   = ["sqs:GetQueueUrl"]
      resources = [local.worked_arns["intake"]]
    },
    {
      sid       = "ListLanding"
      actions   = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning"]
      resources = [var.data.landing.arn]
    },
    {
      sid       = "MoveFiles"
      actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"]
      resources = [for area in ["incoming", "processed", "failed"] : "${var.data.landing.arn}/${area}/*"]
    },
  ]
}
