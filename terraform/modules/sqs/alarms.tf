locals {
  oldest_allowed = {
    for key, queue in local.worked : key => startswith(key, "change-") ? var.alarm_thresholds.change_age_seconds : var.alarm_thresholds.age_seconds
  }
}

# SQS tells nothing of a queue that nobody used for six hours: no data is no fault.
resource "aws_cloudwatch_metric_alarm" "depth" {
  for_each = local.worked

  alarm_name          = "${each.value.name}-depth"
  alarm_description   = "More than ${var.alarm_thresholds.depth} messages wait in ${each.value.name}: who works it is down, or too slow."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.worked[each.key].name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarm_thresholds.depth
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "age" {
  for_each = local.worked

  alarm_name          = "${each.value.name}-age"
  alarm_description   = "The oldest message in ${each.value.name} waits for more than ${local.oldest_allowed[each.key]} seconds: changes are late in the index."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.worked[each.key].name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = local.oldest_allowed[each.key]
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags
}

# In flight, too: who looks through dead letters hides them for a while, and each time the alarm would
# end and begin anew.
resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  for_each = local.dead_letters

  alarm_name          = "${each.value}-any"
  alarm_description   = "A message was given up and lies in ${each.value}: see what it says and why it failed, then mend and send it again."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags

  metric_query {
    id          = "letters"
    expression  = "visible + in_flight"
    label       = "Dead letters"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = {
      visible   = "ApproximateNumberOfMessagesVisible"
      in_flight = "ApproximateNumberOfMessagesNotVisible"
    }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/SQS"
        metric_name = metric_query.value
        dimensions  = { QueueName = aws_sqs_queue.dead_letter[each.key].name }
        period      = 60
        stat        = "Maximum"
      }
    }
  }
}
