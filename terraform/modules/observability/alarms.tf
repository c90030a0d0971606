locals {
  five_minutes = 300

  # A plan cannot tell whether an id that is not known yet will be null.
  has_api = var.has_api != null ? var.has_api : var.api_id != null

  # Each: failed of all. All of one alarm's metrics are summed.
  error_rates = { for key, rate in local.all_error_rates : key => rate if key != "api-errors" || local.has_api }

  all_error_rates = {
    api-errors = {
      what      = "of the API's requests were answered with 5xx"
      namespace = "AWS/ApiGateway"
      failed    = ["5xx"]
      all       = ["Count"]
      labels    = { ApiId = var.api_id }
    }
    message-failures = {
      what      = "of the tries to embed, apply or delete a document failed"
      namespace = local.metric_namespace
      failed    = ["Failed"]
      all       = ["Failed", "Done"]
      labels    = null
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "error_rate" {
  for_each = local.error_rates

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "More than ${var.error_rate_percent} % ${each.value.what}, in two of three times five minutes."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.error_rate_percent
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags

  metric_query {
    id          = "rate"
    label       = "error rate, %"
    return_data = true
    expression = format(
      "IF((%[1]s) >= %[2]d, 100 * (%[3]s) / (%[1]s), 0)",
      join(" + ", [for index, _ in each.value.all : "FILL(all${index}, 0)"]),
      var.error_rate_least_count,
      join(" + ", [for index, _ in each.value.failed : "FILL(failed${index}, 0)"]),
    )
  }

  dynamic "metric_query" {
    for_each = merge(
      { for index, metric in each.value.failed : "failed${index}" => metric },
      { for index, metric in each.value.all : "all${index}" => metric },
    )

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = each.value.namespace
        metric_name = metric_query.value
        dimensions  = each.value.labels
        period      = local.five_minutes
        stat        = "Sum"
      }
    }
  }
}

# What stands still says nothing of its freshness: the age of the oldest message (module sqs) does.
resource "aws_cloudwatch_metric_alarm" "freshness" {
  alarm_name          = "${var.name}-freshness"
  alarm_description   = "Of the changes that became visible, one in twenty took longer than ${var.freshness_p95_seconds} s from its accept on, for fifteen minutes."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.freshness_p95_seconds
  namespace           = local.metric_namespace
  metric_name         = "FreshnessSeconds"
  extended_statistic  = "p95"
  period              = local.five_minutes
  evaluation_periods  = 3
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "function_errors" {
  for_each = var.functions

  alarm_name          = "${var.name}-${each.key}-errors"
  alarm_description   = "The function ${each.value} ended with an error, or could not start: its log says why."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = each.value }
  statistic           = "Sum"
  period              = local.five_minutes
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "function_throttles" {
  for_each = setintersection(var.request_functions, keys(var.functions))

  alarm_name          = "${var.name}-${each.key}-throttles"
  alarm_description   = "Requests were refused because the function ${var.functions[each.key]} may not run more often at once: raise its reserved concurrency, or the account's."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = var.functions[each.key] }
  statistic           = "Sum"
  period              = local.five_minutes
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

# Who calls on a schedule tells of no failure of its own: no call is no data. A function that is new is
# in alarm until its first call.
resource "aws_cloudwatch_metric_alarm" "clock" {
  for_each = setintersection(var.clock_functions, keys(var.functions))

  alarm_name          = "${var.name}-${each.key}-not-called"
  alarm_description   = "Nothing called the function ${var.functions[each.key]} for fifteen minutes: see whether its EventBridge rules are on and may call it. What stays behind is not woken meanwhile."
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = var.functions[each.key] }
  statistic           = "Sum"
  period              = local.five_minutes
  evaluation_periods  = 3
  datapoints_to_alarm = 3
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}
