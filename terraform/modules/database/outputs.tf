output "endpoint" {
  description = "Host and port, HOST:5432."
  value       = aws_db_instance.audit.endpoint
}

output "address" {
  description = "Host."
  value       = aws_db_instance.audit.address
}

output "port" {
  description = "Port."
  value       = local.port
}

output "database_name" {
  description = "Name of the database."
  value       = var.database_name
}

output "secret_arn" {
  description = "ARN of the secret with the master user's name and password, which RDS makes and rotates."
  value       = aws_db_instance.audit.master_user_secret[0].secret_arn
}

output "security_group_id" {
  description = "Security group of the database."
  value       = aws_security_group.database.id
}

output "resource_id" {
  description = "Id that rights to sign in with tokens of IAM are written for (rds-db:connect)."
  value       = aws_db_instance.audit.resource_id
}

output "log_group_names" {
  description = "Log groups of PostgreSQL."
  value       = { for log, group in aws_cloudwatch_log_group.database : log => group.name }
}
