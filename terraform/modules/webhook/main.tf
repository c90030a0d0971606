locals {
  secret_arns = [for one in var.secrets : var.data.secret_arns[one]]
  # The version is read by nobody: a change of it makes Lambda start anew, and read the secrets again.
  secret_settings = {
    BLOOMWEAVER_SECRET_IDS      = join(",", local.secret_arns)
    BLOOMWEAVER_SECRETS_VERSION = var.secrets_version
  }
  routes  = setsubtract(keys(var.throttling), ["$default"])
  api_url = var.domain == null ? aws_apigatewayv2_api.this.api_endpoint : "https://${var.domain.name}"
}

module "function" {
  source = "../function"

  function_name        = "${var.name}-webhook"
  description          = "BloomWeaver's HTTP API"
  handler              = "webhook.lambda_entry.handler"
  package              = var.package
  environment          = merge(var.settings, local.secret_settings)
  statements           = local.statements
  memory_mb            = var.memory_mb
  timeout_seconds      = var.timeout_seconds
  reserved_concurrency = var.reserved_concurrency
  architecture         = var.architecture
  vpc                  = var.vpc
  tracing              = var.tracing
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tags                 = var.tags

  permissions_boundary_arn = var.permissions_boundary_arn
}

resource "aws_apigatewayv2_api" "this" {
  # Without cors_configuration: the application answers preflights itself (BLOOMWEAVER_CORS_ORIGINS).
  name                         = var.name
  description                  = "BloomWeaver's HTTP API"
  protocol_type                = "HTTP"
  disable_execute_api_endpoint = var.domain != null && !try(var.domain.keep_default_endpoint, false)
  tags                         = var.tags
}

resource "aws_apigatewayv2_integration" "webhook" {
  api_id                 = aws_apigatewayv2_api.this.id
  integration_type       = "AWS_PROXY"
  integration_method     = "POST"
  integration_uri        = module.function.function.invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = 30000
}

resource "aws_apigatewayv2_route" "this" {
  #checkov:skip=CKV_AWS_309:the application asks for keys and tokens itself, and its sources for signatures, which API Gateway cannot check
  for_each = toset(keys(var.throttling))

  api_id             = aws_apigatewayv2_api.this.id
  route_key          = each.key
  target             = "integrations/${aws_apigatewayv2_integration.webhook.id}"
  authorization_type = "NONE"
}

resource "aws_cloudwatch_log_group" "access" {
  #checkov:skip=CKV_AWS_158:encrypted with CloudWatch's own key unless kms_key_arn names another
  #checkov:skip=CKV_AWS_338:how long logs are kept is the caller's to say
  name              = "/aws/vendedlogs/${var.name}-api"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_apigatewayv2_stage" "default" {
  api_id      = aws_apigatewayv2_api.this.id
  name        = "$default"
  auto_deploy = true
  tags        = var.tags

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.access.arn
    # Neither queries nor headers: both may hold what only the caller and the application know.
    format = jsonencode({
      time               = "$context.requestTime"
      request_id         = "$context.requestId"
      ip                 = "$context.identity.sourceIp"
      user_agent         = "$context.identity.userAgent"
      method             = "$context.httpMethod"
      route              = "$context.routeKey"
      path               = "$context.path"
      status             = "$context.status"
      response_bytes     = "$context.responseLength"
      response_ms        = "$context.responseLatency"
      integration_status = "$context.integrationStatus"
      integration_ms     = "$context.integrationLatency"
      integration_error  = "$context.integrationErrorMessage"
      gateway_error      = "$context.error.message"
    })
  }

  default_route_settings {
    detailed_metrics_enabled = true
    throttling_rate_limit    = var.throttling["$default"].rate
    throttling_burst_limit   = var.throttling["$default"].burst
  }

  dynamic "route_settings" {
    for_each = local.routes
    content {
      route_key                = aws_apigatewayv2_route.this[route_settings.value].route_key
      detailed_metrics_enabled = true
      throttling_rate_limit    = var.throttling[route_settings.value].rate
      throttling_burst_limit   = var.throttling[route_settings.value].burst
    }
  }
}

resource "aws_lambda_permission" "api" {
  statement_id  = "Api"
  action        = "lambda:InvokeFunction"
  function_name = module.function.function.name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this.execution_arn}/*/*"
}
