# The shape is that of common/adapters/registry/dynamodb_table.py; a test compares the two.
resource "aws_dynamodb_table" "this" {
  #checkov:skip=CKV_AWS_119:DynamoDB always encrypts; kms_key_arn gives a customer managed key, which costs a dollar a month and money for each thousand calls.
  #checkov:skip=CKV_AWS_28:point_in_time_recovery is on unless the caller switches it off, as dev does
  name                        = "${var.name}-registry"
  billing_mode                = "PAY_PER_REQUEST"
  deletion_protection_enabled = var.deletion_protection
  hash_key                    = "pk"
  range_key                   = "sk"
  tags                        = var.tags

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  attribute {
    name = "status"
    type = "S"
  }

  attribute {
    name = "updated_at"
    type = "N"
  }

  attribute {
    name = "sweep_shard"
    type = "N"
  }

  attribute {
    name = "sweep_at"
    type = "N"
  }

  global_secondary_index {
    name               = "status-updated_at-index"
    hash_key           = "status"
    range_key          = "updated_at"
    projection_type    = "INCLUDE"
    non_key_attributes = ["chunk_count", "size_bytes"]
  }

  global_secondary_index {
    name            = "sweep_shard-sweep_at-index"
    hash_key        = "sweep_shard"
    range_key       = "sweep_at"
    projection_type = "KEYS_ONLY"
  }

  # What is remembered of webhook deliveries goes by this, or never.
  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  dynamic "server_side_encryption" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }
}
