# Lambda pulls by itself, also long after a deployment, and needs to be allowed to by the repository.
# Without this policy it writes its own, if who makes the function may: one that nobody reviewed.
data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  lambda_functions = join(":", [
    "arn", data.aws_partition.current.partition, "lambda", data.aws_region.current.id,
    data.aws_caller_identity.current.account_id, "function", "${var.name}-*",
  ])
}

# The ARN holds the account. Nothing about TLS: ECR answers by nothing else.
resource "aws_ecr_repository_policy" "lambda" {
  for_each = setintersection(var.lambda_repositories, var.repositories)

  repository = aws_ecr_repository.this[each.key].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "LambdaPulls"
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Condition = { ArnLike = { "aws:SourceArn" = local.lambda_functions } }
    }]
  })
}
