mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mocked" }
  }
  mock_resource "aws_lambda_function" {
    defaults = {
      arn           = "arn:aws:lambda:eu-central-1:123456789012:function:mocked"
      invoke_arn    = "arn:aws:apigateway:eu-central-1:lambda:path/mocked"
      qualified_arn = "arn:aws:lambda:eu-central-1:123456789012:function:mocked:1"
    }
  }
}

variables {
  function_name = "bloomweaver-dev-create"
  handler       = "workers.lambda_entry.create"
  package       = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:abc" }
  environment   = { BLOOMWEAVER_QUEUE_URL = "sqs:" }
  statements = [{
    sid       = "ReadRows"
    actions   = ["dynamodb:GetItem"]
    resources = ["arn:aws:dynamodb:eu-central-1:123456789012:table/rows"]
  }]
}

run "an_image_is_told_which_handler_to_run" {
  command = apply

  assert {
    condition     = aws_lambda_function.this.package_type == "Image" && aws_lambda_function.this.image_config[0].command == tolist(["workers.lambda_entry.create"])
    error_message = "one image holds all handlers: its command has to name this function's"
  }
  assert {
    condition     = aws_lambda_function.this.handler == null && aws_lambda_function.this.runtime == null
    error_message = "Lambda refuses a handler or a runtime beside an image"
  }
  assert {
    condition     = aws_lambda_function.this.reserved_concurrent_executions == -1
    error_message = "nothing is reserved unless somebody asks"
  }
  assert {
    condition     = aws_lambda_function.this.tracing_config[0].mode == "PassThrough"
    error_message = "X-Ray is off unless somebody asks"
  }
}

run "it_may_do_what_it_is_given_and_write_its_own_log" {
  command = apply

  assert {
    condition     = toset([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : one.Sid]) == toset(["WriteLog", "ReadRows"])
    error_message = "the role's rights are the log's and those it is given, nothing else"
  }
  assert {
    condition = alltrue([
      for one in jsondecode(aws_iam_role_policy.this.policy).Statement :
      one.Resource == ["arn:aws:logs:eu-central-1:123456789012:log-group:mocked:*"] if one.Sid == "WriteLog"
    ])
    error_message = "it writes its own log group and no other"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal == { Service = "lambda.amazonaws.com" }
    error_message = "only Lambda takes the role"
  }
  assert {
    condition     = aws_cloudwatch_log_group.this.name == "/aws/lambda/bloomweaver-dev-create" && aws_cloudwatch_log_group.this.retention_in_days == 30
    error_message = "the log group must be Lambda's own, and not kept for ever"
  }
}

run "a_boundary_bounds_the_role" {
  command = plan
  variables {
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/bound"
  }

  assert {
    condition     = aws_iam_role.this.permissions_boundary == var.permissions_boundary_arn
    error_message = "an account that bounds its roles refuses one without the boundary"
  }
}

run "a_customer_key_encrypts_and_may_be_used" {
  command = apply
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/mine"
  }

  assert {
    condition     = aws_lambda_function.this.kms_key_arn == var.kms_key_arn && aws_cloudwatch_log_group.this.kms_key_id == var.kms_key_arn
    error_message = "the environment and the log are encrypted with the key that is given"
  }
  assert {
    condition = [
      for one in jsondecode(aws_iam_role_policy.this.policy).Statement : [one.Action, one.Resource] if one.Sid == "UseKey"
    ] == [[["kms:Decrypt", "kms:GenerateDataKey"], [var.kms_key_arn]]]
    error_message = "the role may decrypt and encrypt with this key and no other"
  }
}

run "a_zip_has_a_handler_and_a_runtime" {
  command = apply
  variables {
    package = { zip_path = "tests/function.tftest.hcl" }
  }

  assert {
    condition     = aws_lambda_function.this.package_type == "Zip" && aws_lambda_function.this.handler == "workers.lambda_entry.create" && aws_lambda_function.this.runtime == "python3.12"
    error_message = "a zip needs a handler and a runtime"
  }
  assert {
    condition     = aws_lambda_function.this.source_code_hash == filebase64sha256("tests/function.tftest.hcl")
    error_message = "a changed zip has to be noticed"
  }
}

run "a_vpc_and_traces_bring_their_rights" {
  command = apply
  variables {
    tracing = true
    vpc     = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = toset([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : one.Sid if one.Resource == ["*"] && one.Effect == "Allow"]) == toset(["JoinVpc", "SendTraces"])
    error_message = "in a VPC it needs network interfaces, and with X-Ray it sends traces; nothing else has no resource"
  }
  assert {
    condition = [
      for one in jsondecode(aws_iam_role_policy.this.policy).Statement : jsonencode(one.Condition) if one.Effect == "Deny" && contains(one.Action, "ec2:CreateNetworkInterface")
    ] == [jsonencode({ ArnEquals = { "lambda:SourceFunctionArn" = ["arn:aws:lambda:eu-central-1:123456789012:function:bloomweaver-dev-create"] } })]
    error_message = "what Lambda may do with interfaces, the code of this function must not"
  }
  assert {
    condition = length(setsubtract(
      flatten([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : one.Action if one.Sid == "JoinVpc"]),
      flatten([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : one.Action if one.Effect == "Deny"]),
    )) == 0
    error_message = "nothing that Lambda may do with interfaces is left to the function's code"
  }
  assert {
    condition     = aws_lambda_function.this.tracing_config[0].mode == "Active" && aws_lambda_function.this.vpc_config[0].subnet_ids == toset(["subnet-1"])
    error_message = "tracing and the VPC are set on the function"
  }
}

run "an_environment_that_lambda_would_refuse_is_refused_in_the_plan" {
  command = plan
  variables {
    environment = { BLOOMWEAVER_EMBEDDING_VARIANTS = join("", [for one in range(1024) : "four"]) }
  }
  expect_failures = [aws_lambda_function.this]
}

run "an_image_and_a_zip_at_once_are_refused" {
  command = plan
  variables {
    package = { image_uri = "a@sha256:b", zip_path = "tests/function.tftest.hcl" }
  }
  expect_failures = [var.package]
}

run "a_package_has_to_be_named" {
  command = plan
  variables {
    package = {}
  }
  expect_failures = [var.package]
}

run "rights_to_everything_are_refused" {
  command = plan
  variables {
    statements = [{ sid = "All", actions = ["dynamodb:GetItem"], resources = ["*"] }]
  }
  expect_failures = [var.statements]
}

run "rights_to_do_everything_are_refused" {
  command = plan
  variables {
    statements = [{ sid = "All", actions = ["s3:*"], resources = ["arn:aws:s3:::b"] }]
  }
  expect_failures = [var.statements]
}

run "a_retention_that_cloudwatch_does_not_know_is_refused" {
  command = plan
  variables {
    log_retention_days = 31
  }
  expect_failures = [var.log_retention_days]
}
