locals {
  secrets = {
    pinecone = "API key of the index: {\"BLOOMWEAVER_PINECONE_API_KEY\": \"...\"}"
    webhook  = "What the webhook alone needs, such as secrets of sources and the audit trail's URL"
    operator = "Keys of operators and of smoke tests; no role reads it"
  }
}

# Containers only: a value given here would lie readable in Terraform's state.
resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV_AWS_149:Secrets Manager always encrypts; kms_key_arn gives a customer managed key, which costs a dollar a month.
  #checkov:skip=CKV2_AWS_57:The values are keys of other services, which no function of ours can make anew; docs/deploy.md tells how they are changed.
  for_each = local.secrets

  name                    = "${var.name}/${each.key}"
  description             = each.value
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.recovery_window_days
  tags                    = var.tags
}

resource "aws_secretsmanager_secret_policy" "this" {
  for_each = aws_secretsmanager_secret.this

  secret_arn          = each.value.arn
  block_public_policy = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "RefuseWithoutTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "secretsmanager:*"
      Resource  = each.value.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
