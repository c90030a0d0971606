mock_provider "aws" {}

variables {
  name = "bloomweaver-test"
}

run "a_table_costs_nothing_idle_and_survives_mistakes" {
  command = plan

  assert {
    condition     = output.table.name == "bloomweaver-test-registry" && aws_dynamodb_table.this.billing_mode == "PAY_PER_REQUEST"
    error_message = "An idle table must cost its storage only."
  }

  assert {
    condition     = aws_dynamodb_table.this.deletion_protection_enabled && aws_dynamodb_table.this.point_in_time_recovery[0].enabled
    error_message = "The table must refuse to be deleted, and be restorable."
  }

  assert {
    condition     = aws_dynamodb_table.this.ttl[0].enabled && aws_dynamodb_table.this.ttl[0].attribute_name == "ttl"
    error_message = "Without time to live nothing that is remembered of deliveries is ever removed."
  }

  assert {
    condition     = length(aws_dynamodb_table.this.server_side_encryption) == 0
    error_message = "Without a customer's key DynamoDB encrypts with its own, which costs nothing."
  }
}

run "a_development_table_can_be_destroyed" {
  command = plan

  variables {
    deletion_protection    = false
    point_in_time_recovery = false
  }

  assert {
    condition     = !aws_dynamodb_table.this.deletion_protection_enabled && !aws_dynamodb_table.this.point_in_time_recovery[0].enabled
    error_message = "Both can be switched off."
  }
}

run "a_customer_key_encrypts" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = aws_dynamodb_table.this.server_side_encryption[0].enabled && aws_dynamodb_table.this.server_side_encryption[0].kms_key_arn == var.kms_key_arn
    error_message = "The given key must encrypt the table."
  }
}
