locals {
  change_names = {
    for variant in var.variants : variant => variant == "default" ? "${var.name}-change" : "${var.name}-change-${variant}"
  }
  # The queues that are worked, by a key of their own: a variant may be called "create".
  worked = merge(
    { for variant, name in local.change_names : "change-${variant}" => { name = name, dead_letter = "dead_letter" } },
    { for kind in ["create", "update", "delete"] : kind => { name = "${var.name}-${kind}", dead_letter = "dead_letter" } },
    { intake = { name = "${var.name}-intake", dead_letter = "intake_dead_letter" } },
  )
  # What S3 sends is no wake-up: who reads the dead letters of the others could not read it.
  dead_letters = {
    dead_letter        = "${var.name}-dead-letter"
    intake_dead_letter = "${var.name}-intake-dead-letter"
  }
  queues = merge(aws_sqs_queue.worked, aws_sqs_queue.dead_letter)
}

resource "aws_sqs_queue" "worked" {
  for_each = local.worked

  name                       = each.value.name
  visibility_timeout_seconds = var.visibility_timeout_seconds
  message_retention_seconds  = var.message_retention_seconds
  tags                       = var.tags

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter[each.value.dead_letter].arn
    maxReceiveCount     = var.max_receive_count
  })

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 300
}

# A dead letter's age counts from when it was first sent: 14 days, whatever the others keep.
resource "aws_sqs_queue" "dead_letter" {
  for_each = local.dead_letters

  name                       = each.value
  visibility_timeout_seconds = var.visibility_timeout_seconds
  message_retention_seconds  = 1209600
  tags                       = var.tags

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 300
}

resource "aws_sqs_queue_redrive_allow_policy" "this" {
  for_each = var.redrive_allow_policies ? local.dead_letters : {}

  queue_url = aws_sqs_queue.dead_letter[each.key].url
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [for key, queue in local.worked : aws_sqs_queue.worked[key].arn if queue.dead_letter == each.key]
  })

  lifecycle {
    precondition {
      condition     = length(var.variants) <= 7
      error_message = "SQS lets a dead-letter queue name 10 queues that use it: with more than 7 variants set redrive_allow_policies = false."
    }
  }
}
