mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }

  mock_resource "aws_sqs_queue" {
    defaults = {
      arn = "arn:aws:sqs:eu-central-1:123456789012:worked"
    }
  }

  override_resource {
    target = aws_sqs_queue.dead_letter["dead_letter"]
    values = {
      arn = "arn:aws:sqs:eu-central-1:123456789012:dead-letter"
    }
  }

  override_resource {
    target = aws_sqs_queue.dead_letter["intake_dead_letter"]
    values = {
      arn = "arn:aws:sqs:eu-central-1:123456789012:intake-dead-letter"
    }
  }

  override_resource {
    target = aws_sqs_queue.worked["intake"]
    values = {
      arn = "arn:aws:sqs:eu-central-1:123456789012:intake"
    }
  }
}

variables {
  name               = "bloomweaver-test"
  variants           = ["default", "large"]
  landing_bucket_arn = "arn:aws:s3:::bloomweaver-test-landing"
  alarm_topic_arns   = ["arn:aws:sns:eu-central-1:123456789012:alarms"]
}

run "each_queue_has_its_name" {
  assert {
    condition     = { for variant, queue in output.change_queues : variant => queue.name } == { default = "bloomweaver-test-change", large = "bloomweaver-test-change-large" }
    error_message = "Each variant has a change queue; the default one's name has no suffix."
  }

  assert {
    condition = { for key, queue in output.queues : key => queue.name } == {
      create             = "bloomweaver-test-create"
      update             = "bloomweaver-test-update"
      delete             = "bloomweaver-test-delete"
      intake             = "bloomweaver-test-intake"
      dead_letter        = "bloomweaver-test-dead-letter"
      intake_dead_letter = "bloomweaver-test-intake-dead-letter"
    }
    error_message = "The other modules look queues up by these keys."
  }
}

run "messages_are_kept_hidden_and_given_up_as_the_product_expects" {
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.worked : queue.visibility_timeout_seconds == 300])
    error_message = "A received message must be hidden for 300 seconds."
  }

  assert {
    condition     = alltrue([for queue in local.queues : queue.message_retention_seconds == 14 * 86400])
    error_message = "SQS keeps messages for 4 days unless told otherwise; ours stay for 14."
  }

  assert {
    condition     = alltrue([for queue in aws_sqs_queue.worked : jsondecode(queue.redrive_policy).maxReceiveCount == 3])
    error_message = "After 3 receives a message is given up."
  }

  assert {
    condition = {
      for key, queue in aws_sqs_queue.worked : key => reverse(split(":", jsondecode(queue.redrive_policy).deadLetterTargetArn))[0]
      } == {
      change-default = "dead-letter"
      change-large   = "dead-letter"
      create         = "dead-letter"
      update         = "dead-letter"
      delete         = "dead-letter"
      intake         = "intake-dead-letter"
    }
    error_message = "The intake has dead letters of its own, all others share theirs."
  }

  assert {
    condition     = length(jsondecode(aws_sqs_queue_redrive_allow_policy.this["dead_letter"].redrive_allow_policy).sourceQueueArns) == 5 && jsondecode(aws_sqs_queue_redrive_allow_policy.this["intake_dead_letter"].redrive_allow_policy).sourceQueueArns == ["arn:aws:sqs:eu-central-1:123456789012:intake"]
    error_message = "Dead-letter queues must take from our own queues only."
  }
}

run "messages_are_encrypted" {
  assert {
    condition     = alltrue([for queue in local.queues : queue.sqs_managed_sse_enabled])
    error_message = "Without a key of the customer SQS encrypts with its own."
  }
}

run "a_customer_key_encrypts" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = alltrue([for queue in local.queues : queue.kms_master_key_id == var.kms_key_arn])
    error_message = "The given key must encrypt every queue."
  }
}

run "nobody_comes_without_tls_and_only_our_bucket_may_send" {
  assert {
    condition = toset(keys(aws_sqs_queue_policy.this)) == toset(keys(local.queues)) && alltrue([
      for key, policy in aws_sqs_queue_policy.this : anytrue([
        for statement in jsondecode(policy.policy).Statement : statement.Effect == "Deny" && statement.Principal == "*" && statement.Action == "sqs:*"
        && statement.Resource == local.queues[key].arn && try(statement.Condition.Bool["aws:SecureTransport"] == "false", false)
      ])
    ])
    error_message = "Every queue must refuse requests without TLS."
  }

  assert {
    condition = [for statement in jsondecode(aws_sqs_queue_policy.this["intake"].policy).Statement : statement if statement.Effect == "Allow"] == [{
      Sid       = "LandingBucketSends"
      Effect    = "Allow"
      Principal = { Service = "s3.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = "arn:aws:sqs:eu-central-1:123456789012:intake"
      Condition = {
        ArnEquals    = { "aws:SourceArn" = "arn:aws:s3:::bloomweaver-test-landing" }
        StringEquals = { "aws:SourceAccount" = "123456789012" }
      }
    }]
    error_message = "S3 may send to the intake queue, for the landing bucket of this account only."
  }

  assert {
    condition = alltrue([
      for key, policy in aws_sqs_queue_policy.this : alltrue([for statement in jsondecode(policy.policy).Statement : statement.Effect == "Deny"])
      if key != "intake"
    ])
    error_message = "No policy but the intake's lets anyone in."
  }
}

run "without_a_landing_bucket_nobody_else_may_send" {
  variables {
    landing_bucket_arn = null
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_sqs_queue_policy.this["intake"].policy).Statement : statement.Effect == "Deny"])
    error_message = "Without a bucket the intake queue's policy must let nobody in."
  }
}

run "alarms_watch_depth_age_and_dead_letters" {
  assert {
    condition = alltrue([
      for key, alarm in aws_cloudwatch_metric_alarm.depth : alarm.metric_name == "ApproximateNumberOfMessagesVisible" && alarm.threshold == 10000
      && alarm.comparison_operator == "GreaterThanThreshold" && alarm.dimensions.QueueName == local.worked[key].name
    ]) && toset(keys(aws_cloudwatch_metric_alarm.depth)) == toset(keys(local.worked))
    error_message = "Every worked queue has an alarm on its depth."
  }

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.age : key => alarm.threshold if alarm.metric_name == "ApproximateAgeOfOldestMessage" && alarm.dimensions.QueueName == local.worked[key].name } == {
      change-default = 3600, change-large = 3600, create = 900, update = 900, delete = 900, intake = 900
    }
    error_message = "Every worked queue has an alarm on the age of its oldest message."
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.dead_letters : alarm.threshold == 0 && alarm.comparison_operator == "GreaterThanThreshold" && alarm.evaluation_periods == 1
      && [for one in alarm.metric_query : one.expression if one.return_data == true] == ["visible + in_flight"]
    ]) && length(aws_cloudwatch_metric_alarm.dead_letters) == 2
    error_message = "One dead letter is enough for an alarm, which must not end while somebody looks at it."
  }

  assert {
    condition = alltrue([
      for key, alarm in aws_cloudwatch_metric_alarm.dead_letters :
      { for one in alarm.metric_query : one.id => "${one.metric[0].metric_name} ${one.metric[0].dimensions.QueueName}" if length(one.metric) > 0 } == {
        visible   = "ApproximateNumberOfMessagesVisible ${local.dead_letters[key]}"
        in_flight = "ApproximateNumberOfMessagesNotVisible ${local.dead_letters[key]}"
      }
    ])
    error_message = "Each looks at its own queue."
  }

  assert {
    condition = alltrue([
      for alarm in concat(values(aws_cloudwatch_metric_alarm.depth), values(aws_cloudwatch_metric_alarm.age), values(aws_cloudwatch_metric_alarm.dead_letters)) :
      alarm.alarm_actions == toset(var.alarm_topic_arns) && alarm.treat_missing_data == "notBreaching"
    ])
    error_message = "Alarms must tell the topic, and idle queues must not raise any."
  }

  assert {
    condition     = length(output.alarm_names) == 14 && contains(output.alarm_names, "bloomweaver-test-change-large-depth")
    error_message = "All alarms must be told of."
  }
}

run "an_emulator_gets_no_redrive_allow_policy" {
  variables {
    redrive_allow_policies = false
  }

  assert {
    condition     = length(aws_sqs_queue_redrive_allow_policy.this) == 0
    error_message = "moto hangs on this resource."
  }
}

run "the_default_variant_cannot_be_left_out" {
  command = plan

  variables {
    variants = ["large"]
  }

  expect_failures = [var.variants]
}

run "dead_letters_cannot_list_more_than_ten_queues" {
  command = plan

  variables {
    variants = ["default", "v1", "v2", "v3", "v4", "v5", "v6", "v7"]
  }

  expect_failures = [aws_sqs_queue_redrive_allow_policy.this]
}
