output "secret_arns" {
  description = "ARN of each secret: pinecone, webhook and operator. BLOOMWEAVER_SECRET_IDS takes them."
  value       = { for key, secret in aws_secretsmanager_secret.this : key => secret.arn }
}
