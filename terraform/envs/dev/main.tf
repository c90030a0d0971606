module "bloomweaver" {
  source = "../../modules/bloomweaver"

  providers = {
    aws           = aws
    aws.us_east_1 = aws.us_east_1
  }

  name              = var.name
  kms_key_arn       = var.kms_key_arn
  customer_key      = var.customer_key
  bucket_suffix     = var.bucket_suffix
  index_url         = var.index_url
  images            = var.images
  functions_zip     = var.functions_zip
  variants          = var.variants
  settings          = var.settings
  webhook_settings  = var.webhook_settings
  webhook_memory_mb = var.webhook_memory_mb
  throttling        = var.throttling
  mappings          = var.mappings
  one_at_a_time     = var.one_at_a_time
  domain            = var.domain
  network = merge(var.network, {
    availability_zones = [for zone in var.network.zones : "${var.region}${zone}"]
  })
  database           = var.database
  frontend           = var.frontend
  protection         = var.protection
  log_retention_days = var.log_retention_days
  alarm_emails       = var.alarm_emails
  monthly_budget_usd = var.monthly_budget_usd
  emulated           = var.emulated

  # The provider's default tags never reach the instances and volumes that groups start.
  tags                     = local.tags
  permissions_boundary_arn = var.permissions_boundary_arn

  webhook_reserved_concurrency = var.webhook_reserved_concurrency
  secrets_version              = var.secrets_version
  access_log_bucket_name       = var.access_log_bucket_name
  budget_tag                   = var.budget_tag
}
