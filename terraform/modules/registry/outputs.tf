output "table" {
  description = "Name and ARN of the table, for BLOOMWEAVER_REGISTRY_URL=dynamodb:NAME and for policies (its indexes are ARN/index/*)."
  value = {
    name = aws_dynamodb_table.this.name
    arn  = aws_dynamodb_table.this.arn
  }
}
