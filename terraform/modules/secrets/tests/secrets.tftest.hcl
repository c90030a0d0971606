mock_provider "aws" {
  mock_resource "aws_secretsmanager_secret" {
    defaults = {
      arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bloomweaver-test/one-AbCdEf"
    }
  }
}

variables {
  name = "bloomweaver-test"
}

run "three_empty_secrets_can_be_brought_back" {
  assert {
    condition     = { for key, secret in aws_secretsmanager_secret.this : key => secret.name } == { pinecone = "bloomweaver-test/pinecone", webhook = "bloomweaver-test/webhook", operator = "bloomweaver-test/operator" }
    error_message = "The roles look for these three."
  }

  assert {
    condition     = toset(keys(output.secret_arns)) == toset(["pinecone", "webhook", "operator"])
    error_message = "The other modules look secrets up by these keys."
  }

  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.this : secret.recovery_window_in_days == 30])
    error_message = "A secret that was deleted by mistake must be recoverable."
  }
}

run "nobody_comes_without_tls" {
  assert {
    condition = length(aws_secretsmanager_secret_policy.this) == 3 && alltrue([
      for key, policy in aws_secretsmanager_secret_policy.this : policy.block_public_policy && policy.secret_arn == output.secret_arns[key] && jsondecode(policy.policy).Statement == [{
        Sid       = "RefuseWithoutTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "secretsmanager:*"
        Resource  = output.secret_arns[key]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }]
    ])
    error_message = "Every secret must refuse requests without TLS, and policies that let everybody in."
  }
}

run "a_customer_key_encrypts" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.this : secret.kms_key_id == var.kms_key_arn])
    error_message = "The given key must encrypt every secret."
  }
}

run "a_window_that_aws_refuses_is_refused_here" {
  command = plan

  variables {
    recovery_window_days = 3
  }

  expect_failures = [var.recovery_window_days]
}
