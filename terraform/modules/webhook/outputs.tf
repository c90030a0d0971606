output "api_url" {
  description = "Where clients find the webhook (BLOOMWEAVER_URL), without a slash at its end."
  value       = local.api_url
}

output "api_id" {
  description = "Of the HTTP API, for dashboards and alarms."
  value       = aws_apigatewayv2_api.this.id
}

output "function" {
  description = "The webhook's function."
  value       = { name = module.function.function.name, arn = module.function.function.arn }
}

output "role_arn" {
  description = "Of the role that the webhook runs with."
  value       = module.function.role_arn
}

output "log_group_names" {
  description = "Of the function and of the API's access log."
  value       = { webhook = module.function.log_group_name, access = aws_cloudwatch_log_group.access.name }
}

output "image" {
  description = "What it runs; null for a zip."
  value       = module.function.function.image_uri
}
