# S3 refuses to notify a queue whose policy does not let it: who uses the queues waits for policies.
output "queues" {
  description = "Name, ARN and URL of the queues create, update, delete, intake, dead_letter and intake_dead_letter."
  value = {
    for key, queue in local.queues : key => { name = queue.name, arn = queue.arn, url = queue.url }
    if !startswith(key, "change-")
  }
  depends_on = [aws_sqs_queue_policy.this]
}

output "change_queues" {
  description = "Name, ARN and URL of each embedding variant's change queue, by variant."
  value = {
    for variant in var.variants : variant => {
      name = aws_sqs_queue.worked["change-${variant}"].name
      arn  = aws_sqs_queue.worked["change-${variant}"].arn
      url  = aws_sqs_queue.worked["change-${variant}"].url
    }
  }
  depends_on = [aws_sqs_queue_policy.this]
}

output "alarm_names" {
  description = "Names of all alarms made here."
  value = sort([
    for alarm in concat(
      values(aws_cloudwatch_metric_alarm.depth),
      values(aws_cloudwatch_metric_alarm.age),
      values(aws_cloudwatch_metric_alarm.dead_letters),
    ) : alarm.alarm_name
  ])
}
