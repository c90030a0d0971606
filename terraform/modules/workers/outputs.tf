output "groups" {
  description = "The Auto Scaling group of each variant."
  value       = { for key, group in aws_autoscaling_group.workers : key => { name = group.name, arn = group.arn } }
}

output "role_arn" {
  description = "The role of the default variant's instances; null where there is no such variant."
  value       = try(aws_iam_role.workers["default"].arn, null)
}

output "role_arns" {
  description = "The role of each variant's instances."
  value       = { for key, role in aws_iam_role.workers : key => role.arn }
}

output "log_group_names" {
  description = "The log group of each variant."
  value       = { for key, group in aws_cloudwatch_log_group.workers : key => group.name }
}

output "alarm_names" {
  description = "Alarms for people. Those that scale are not among them: the one for an idle group is in alarm whenever there is no work."
  value       = [for alarm in aws_cloudwatch_metric_alarm.no_worker : alarm.alarm_name]
}

output "launch_template_ids" {
  description = "The launch template of each variant."
  value       = { for key, template in aws_launch_template.workers : key => template.id }
}
