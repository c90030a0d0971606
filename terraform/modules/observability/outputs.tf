output "topic_arn" {
  description = "ARN of the topic that every alarm and the budget write to."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_name" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.all.dashboard_name
}

output "metric_namespace" {
  description = "CloudWatch namespace of the metrics that are made of log lines."
  value       = local.metric_namespace
}

output "alarm_names" {
  description = "Names of this module's alarms."
  value = concat(
    [for alarm in aws_cloudwatch_metric_alarm.error_rate : alarm.alarm_name],
    [aws_cloudwatch_metric_alarm.freshness.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.function_errors : alarm.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.function_throttles : alarm.alarm_name],
  )
}
