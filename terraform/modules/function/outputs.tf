output "function" {
  description = "The function itself, for permissions, mappings and alarms."
  value = {
    name                 = aws_lambda_function.this.function_name
    arn                  = aws_lambda_function.this.arn
    invoke_arn           = aws_lambda_function.this.invoke_arn
    qualified_arn        = aws_lambda_function.this.qualified_arn
    timeout_seconds      = aws_lambda_function.this.timeout
    reserved_concurrency = var.reserved_concurrency
    environment          = var.environment
    image_uri            = aws_lambda_function.this.image_uri
  }
}

output "role_arn" {
  description = "Of the role that the function runs with."
  value       = aws_iam_role.this.arn
}

output "role_name" {
  description = "Its name, for a policy that somebody adds."
  value       = aws_iam_role.this.name
}

output "policy" {
  description = "What the role may do, as JSON: for tests that read it."
  value       = local.policy
}

output "log_group_name" {
  description = "Where the function writes."
  value       = aws_cloudwatch_log_group.this.name
}
