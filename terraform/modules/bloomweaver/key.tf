locals {
  kms_key_arn = var.customer_key ? module.key[0].arn : var.kms_key_arn
}

module "key" {
  source = "../key"
  count  = var.customer_key ? 1 : 0

  name         = var.name
  tags         = var.tags
  auto_scaling = local.fleet_count > 0
  cloudfront   = var.frontend != null
}
