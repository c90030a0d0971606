output "repository_urls" {
  description = "URL of each repository, to push to and to pull from, by its short name."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "repository_arns" {
  description = "ARN of each repository, by its short name."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.arn }
}

output "lambda_repositories" {
  description = "Short names of the repositories that Lambda may pull from, once it may: who waits for this makes no function too early."
  value       = toset([for name, policy in aws_ecr_repository_policy.lambda : name])
}
