locals {
  is_image = var.package.image_uri != null
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:encrypted with CloudWatch's own key unless kms_key_arn names another
  #checkov:skip=CKV_AWS_338:how long logs are kept is the caller's to say
  name              = "/aws/lambda/${var.function_name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:X-Ray costs and is off unless tracing asks for it
  #checkov:skip=CKV_AWS_115:a limit of its own only where the caller wants one
  #checkov:skip=CKV_AWS_116:messages of queues go to the queues' dead letters; schedules come again by themselves
  #checkov:skip=CKV_AWS_117:outside a VPC unless a database needs one: everything else is reached by AWS's public endpoints over TLS
  #checkov:skip=CKV_AWS_173:encrypted with Lambda's own key unless kms_key_arn names another; it holds no secrets
  #checkov:skip=CKV_AWS_272:images cannot be signed by AWS Signer's code signing; they are pinned by digest
  function_name                  = var.function_name
  description                    = var.description
  role                           = aws_iam_role.this.arn
  package_type                   = local.is_image ? "Image" : "Zip"
  image_uri                      = var.package.image_uri
  filename                       = var.package.zip_path
  source_code_hash               = local.is_image ? null : filebase64sha256(var.package.zip_path)
  handler                        = local.is_image ? null : var.handler
  runtime                        = local.is_image ? null : var.runtime
  architectures                  = [var.architecture]
  memory_size                    = var.memory_mb
  timeout                        = var.timeout_seconds
  reserved_concurrent_executions = coalesce(var.reserved_concurrency, -1)
  kms_key_arn                    = length(var.environment) > 0 ? var.kms_key_arn : null
  tags                           = var.tags

  dynamic "image_config" {
    for_each = local.is_image ? [1] : []
    content {
      command = [var.handler]
    }
  }

  dynamic "environment" {
    for_each = length(var.environment) > 0 ? [1] : []
    content {
      variables = var.environment
    }
  }

  dynamic "vpc_config" {
    for_each = var.vpc == null ? [] : [var.vpc]
    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  tracing_config {
    mode = var.tracing ? "Active" : "PassThrough"
  }

  # Otherwise the first event may come before the rights, and Lambda would make a log group that
  # is kept for ever.
  depends_on = [aws_cloudwatch_log_group.this, aws_iam_role_policy.this]

  lifecycle {
    precondition {
      condition     = length(jsonencode(var.environment)) <= 4096
      error_message = "${var.function_name}: its environment takes ${length(jsonencode(var.environment))} characters as JSON, and Lambda no more than 4096: shorten the settings, or move some into a secret of BLOOMWEAVER_SECRET_IDS."
    }
  }
}
