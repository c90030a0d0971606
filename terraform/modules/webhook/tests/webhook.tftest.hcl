mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mocked" }
  }
  mock_resource "aws_lambda_function" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:mocked"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/mocked"
    }
  }
  mock_resource "aws_apigatewayv2_api" {
    defaults = {
      api_endpoint  = "https://abc123.execute-api.eu-central-1.amazonaws.com"
      execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:abc123"
    }
  }
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn = "arn:aws:acm:eu-central-1:123456789012:certificate/mocked"
      domain_validation_options = [{
        domain_name           = "api.example.com"
        resource_record_name  = "_x.api.example.com."
        resource_record_type  = "CNAME"
        resource_record_value = "_y.acm-validations.aws."
      }]
    }
  }
  mock_resource "aws_apigatewayv2_domain_name" {
    defaults = { arn = "arn:aws:apigateway:eu-central-1::/domainnames/mocked" }
  }
}

variables {
  name = "bloomweaver-dev"
  data = {
    queues = {
      for one in ["create", "update", "delete", "intake", "dead_letter", "intake_dead_letter"] :
      one => { name = one, arn = "arn:aws:sqs:eu-central-1:123456789012:${one}", url = "https://sqs/${one}" }
    }
    change_queues = {
      for one in ["default", "large"] :
      one => { name = "change-${one}", arn = "arn:aws:sqs:eu-central-1:123456789012:change-${one}", url = "https://sqs/change-${one}" }
    }
    table   = { name = "rows", arn = "arn:aws:dynamodb:eu-central-1:123456789012:table/rows" }
    blobs   = { bucket = "blobs", arn = "arn:aws:s3:::blobs", prefix = "store" }
    landing = { bucket = "landing", arn = "arn:aws:s3:::landing" }
    secret_arns = {
      for one in ["pinecone", "webhook", "operator"] : one => "arn:aws:secretsmanager:eu-central-1:123456789012:secret:${one}-abc"
    }
  }
  settings = { BLOOMWEAVER_QUEUE_URL = "sqs:" }
  package  = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:abc" }
}

run "every_request_reaches_the_function" {
  command = apply

  assert {
    condition     = aws_apigatewayv2_route.this["$default"].target == "integrations/${aws_apigatewayv2_integration.webhook.id}" && alltrue([for one in aws_apigatewayv2_route.this : one.target == aws_apigatewayv2_route.this["$default"].target])
    error_message = "every route leads to the one integration"
  }
  assert {
    condition     = aws_apigatewayv2_integration.webhook.payload_format_version == "2.0" && aws_apigatewayv2_integration.webhook.timeout_milliseconds == 30000
    error_message = "the handler reads payload format 2.0, and requests have 30 s"
  }
  assert {
    condition     = aws_lambda_permission.api.source_arn == "arn:aws:execute-api:eu-central-1:123456789012:abc123/*/*"
    error_message = "only this API may call the function"
  }
  assert {
    condition     = aws_apigatewayv2_stage.default.name == "$default" && aws_apigatewayv2_stage.default.auto_deploy
    error_message = "the stage shows in no path and follows the routes"
  }
  assert {
    condition     = module.function.function.timeout_seconds == 30
    error_message = "the function has as long as the request"
  }
  assert {
    condition     = length(aws_apigatewayv2_api.this.cors_configuration) == 0
    error_message = "CORS is the application's: API Gateway would answer preflights in its place"
  }
  assert {
    condition     = output.api_url == "https://abc123.execute-api.eu-central-1.amazonaws.com" && !aws_apigatewayv2_api.this.disable_execute_api_endpoint
    error_message = "without a domain the API's own name is the address"
  }
}

run "each_route_has_limits" {
  command = apply

  assert {
    condition     = { for one in aws_apigatewayv2_stage.default.route_settings : one.route_key => one.throttling_rate_limit }["POST /v1/changes"] == 100
    error_message = "changes have a limit of their own"
  }
  assert {
    condition     = toset([for one in aws_apigatewayv2_stage.default.route_settings : one.route_key]) == setsubtract(keys(aws_apigatewayv2_route.this), ["$default"])
    error_message = "each explicit route has limits: else it need not be one"
  }
  assert {
    condition     = contains(keys(aws_apigatewayv2_route.this), "POST /v1/sources/{name}") && contains(keys(aws_apigatewayv2_route.this), "POST /v1/namespaces/{namespace}/search")
    error_message = "deliveries and searches have limits of their own"
  }
  assert {
    condition     = aws_apigatewayv2_stage.default.default_route_settings[0].throttling_rate_limit == 200 && aws_apigatewayv2_stage.default.default_route_settings[0].throttling_burst_limit == 400
    error_message = "what has no limits of its own has the default's"
  }
}

run "a_new_version_of_secrets_starts_it_anew" {
  command = apply
  variables {
    secrets_version = "2"
  }

  assert {
    condition     = lookup(module.function.function.environment, "BLOOMWEAVER_SECRETS_VERSION", "") == var.secrets_version
    error_message = "it reads its secrets again only when it starts"
  }
}

run "the_access_log_tells_no_secrets" {
  command = apply

  assert {
    condition     = jsondecode(aws_apigatewayv2_stage.default.access_log_settings[0].format).status == "$context.status"
    error_message = "each line is JSON and tells the status"
  }
  assert {
    condition = !anytrue([
      for one in values(jsondecode(aws_apigatewayv2_stage.default.access_log_settings[0].format)) :
      can(regex("query|Query|header|authorizer|Authorization", one))
    ])
    error_message = "queries and headers may hold secrets"
  }
}

run "it_may_do_what_docs_aws_says" {
  command = apply

  assert {
    condition = jsonencode({
      for one in jsondecode(module.function.policy).Statement : one.Sid => sort(one.Action)
      }) == jsonencode({
      WriteLog          = ["logs:CreateLogStream", "logs:PutLogEvents"]
      ReadSecrets       = ["secretsmanager:GetSecretValue"]
      LookAtQueues      = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
      SendWakeUps       = ["sqs:SendMessage"]
      HandleDeadLetters = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"]
      KeepRows          = ["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:DeleteItem", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]
      ListBlobs         = ["s3:GetBucketVersioning", "s3:ListBucket"]
      KeepBlobs         = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    })
    error_message = "the webhook's rights are not those of docs/aws.md"
  }
  assert {
    condition = {
      for one in jsondecode(module.function.policy).Statement : one.Sid => one.Resource if contains(["SendWakeUps", "HandleDeadLetters", "KeepBlobs", "ReadSecrets"], one.Sid)
      } == {
      SendWakeUps       = [for one in ["change-default", "change-large", "create", "update", "delete"] : "arn:aws:sqs:eu-central-1:123456789012:${one}"]
      HandleDeadLetters = ["arn:aws:sqs:eu-central-1:123456789012:dead_letter"]
      KeepBlobs         = ["arn:aws:s3:::blobs/store/*"]
      ReadSecrets       = [for one in ["pinecone", "webhook"] : "arn:aws:secretsmanager:eu-central-1:123456789012:secret:${one}-abc"]
    }
    error_message = "rights are to these queues, objects and secrets alone"
  }
  assert {
    condition = alltrue([
      for one in jsondecode(module.function.policy).Statement : alltrue([for resource in one.Resource : !strcontains(resource, "landing") && !strcontains(resource, "operator")])
    ])
    error_message = "the webhook neither reads the landing zone nor the operator's keys"
  }
  assert {
    condition = module.function.function.environment == tomap({
      BLOOMWEAVER_QUEUE_URL       = "sqs:"
      BLOOMWEAVER_SECRETS_VERSION = "1"
      BLOOMWEAVER_SECRET_IDS      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:pinecone-abc,arn:aws:secretsmanager:eu-central-1:123456789012:secret:webhook-abc"
    })
    error_message = "the function is told the shared settings and which secrets to read"
  }
}

run "a_domain_has_a_certificate_and_a_record" {
  command = apply
  variables {
    domain = { name = "api.example.com", zone_id = "Z0123456789" }
  }

  assert {
    condition     = aws_acm_certificate.this["api.example.com"].validation_method == "DNS" && aws_route53_record.validation["api.example.com"].name == "_x.api.example.com."
    error_message = "the certificate is validated by a record in the zone"
  }
  assert {
    condition     = aws_apigatewayv2_domain_name.this["api.example.com"].domain_name_configuration[0].security_policy == "TLS_1_2"
    error_message = "TLS 1.2 at least"
  }
  assert {
    condition     = aws_route53_record.alias["api.example.com"].type == "A" && aws_route53_record.alias["api.example.com"].zone_id == "Z0123456789"
    error_message = "the name leads to the API"
  }
  assert {
    condition     = output.api_url == "https://api.example.com" && aws_apigatewayv2_api.this.disable_execute_api_endpoint
    error_message = "the address is the domain, and the other one is closed"
  }
}

run "a_customer_key_may_be_used" {
  command = apply
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/mine"
  }

  assert {
    condition     = [for one in jsondecode(module.function.policy).Statement : one.Resource if one.Sid == "UseKey"] == [["arn:aws:kms:eu-central-1:123456789012:key/mine"]]
    error_message = "what is encrypted with the key can only be read with it"
  }
  assert {
    condition     = aws_cloudwatch_log_group.access.kms_key_id == var.kms_key_arn
    error_message = "the access log is encrypted with the key"
  }
}

run "a_request_longer_than_the_gateway_waits_is_refused" {
  command = plan
  variables {
    timeout_seconds = 31
  }
  expect_failures = [var.timeout_seconds]
}

run "limits_without_a_default_are_refused" {
  command = plan
  variables {
    throttling = { "POST /v1/changes" = { rate = 1, burst = 1 } }
  }
  expect_failures = [var.throttling]
}

run "secrets_among_the_settings_are_refused" {
  command = plan
  variables {
    settings = { BLOOMWEAVER_PINECONE_API_KEY = "pcsk_1" }
  }
  expect_failures = [var.settings]
}
