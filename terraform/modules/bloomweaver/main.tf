# What is there from the first apply on: queues, table, buckets, secrets, repositories, network.
# The functions and the fleets follow with the images, which need the repositories to be pushed to.
locals {
  # Each function is deployed by itself, and so has an image of its own: the two that schedules start
  # are deployed together.
  deployables = {
    webhook = "webhook", create = "create", update = "update", delete = "delete", intake = "intake",
    sweep   = "clock", scrub = "clock"
  }
  function_images = {
    for function, deployable in local.deployables :
    function => lookup(var.images, "functions/${deployable}", lookup(var.images, "functions", null))
  }
  # Known before it is so, and true only after: no function is made before Lambda may pull its image.
  lambda_pulls = contains(module.ecr.lambda_repositories, "functions")
  packages = {
    for function, image in local.function_images : function => {
      image_uri = local.lambda_pulls ? image : null
      zip_path  = image == null ? var.functions_zip : null
    }
  }
  # All of them or none: a part would take messages for the other one.
  function_count = alltrue([for image in values(local.function_images) : image != null || var.functions_zip != null]) ? 1 : 0

  fleet_images = {
    for name, variant in var.variants :
    name => lookup(var.images, "${variant.repository}/${name}", lookup(var.images, variant.repository, null))
  }
  fleets = {
    for name, variant in var.variants : name => merge(variant, { image_uri = local.fleet_images[name] })
    if local.fleet_images[name] != null
  }
  fleet_count = length(local.fleets) == 0 ? 0 : 1

  # The database is reached in the network only; what is there reaches a hosted index by NAT.
  function_vpc = var.database == null ? null : {
    subnet_ids         = module.network.private_subnet_ids
    security_group_ids = aws_security_group.functions[*].id
  }

  groups           = local.fleet_count == 0 ? {} : module.workers[0].groups
  alarm_topic_arns = [module.observability.topic_arn]

  function_names = local.function_count == 0 ? {} : merge(
    { webhook = module.webhook[0].function.name },
    { for role, function in module.consumers[0].functions : role => function.name },
  )
  # Of those whose lines are counted; the webhook's are not.
  log_group_names = merge(
    local.function_count == 0 ? {} : module.consumers[0].log_group_names,
    local.fleet_count == 0 ? {} : { for variant, name in module.workers[0].log_group_names : "embed-${variant}" => name },
  )
}

module "ecr" {
  source = "../ecr"

  name         = var.name
  tags         = var.tags
  kms_key_arn  = local.kms_key_arn
  repositories = distinct(concat(["functions"], [for variant in values(var.variants) : variant.repository]))
  force_delete = !var.protection.keep_contents
}

module "secrets" {
  source = "../secrets"

  name                 = var.name
  tags                 = var.tags
  kms_key_arn          = local.kms_key_arn
  recovery_window_days = var.protection.secret_recovery_days
}

module "sqs" {
  source = "../sqs"

  name               = var.name
  tags               = var.tags
  kms_key_arn        = local.kms_key_arn
  variants           = keys(var.variants)
  landing_bucket_arn = local.landing_bucket_arn
  alarm_topic_arns   = local.alarm_topic_arns

  redrive_allow_policies = var.emulated.redrive_allow_policies
}

module "registry" {
  source = "../registry"

  name                   = var.name
  tags                   = var.tags
  kms_key_arn            = local.kms_key_arn
  deletion_protection    = var.protection.deletion
  point_in_time_recovery = var.protection.point_in_time_recovery
}

data "aws_partition" "current" {}

locals {
  landing_bucket_name = "${var.name}-landing-${var.bucket_suffix}"
  # By its name: the queue's policy has to let the bucket send before the bucket may name the queue.
  landing_bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${local.landing_bucket_name}"
}

module "storage" {
  source = "../storage"

  name                = var.name
  tags                = var.tags
  kms_key_arn         = local.kms_key_arn
  blobs_bucket_name   = "${var.name}-blobs-${var.bucket_suffix}"
  landing_bucket_name = local.landing_bucket_name
  intake_queue_arn    = module.sqs.queues["intake"].arn
  force_destroy       = !var.protection.keep_contents

  access_log_bucket_name = var.access_log_bucket_name
}

module "network" {
  source = "../network"

  name                    = var.name
  tags                    = var.tags
  kms_key_arn             = local.kms_key_arn
  cidr                    = var.network.cidr
  availability_zones      = var.network.availability_zones
  nat                     = var.network.nat
  interface_endpoints     = var.network.interface_endpoints
  flow_log_retention_days = var.network.flow_log_retention_days

  permissions_boundary_arn = var.permissions_boundary_arn
}

module "database" {
  source = "../database"
  count  = var.database == null ? 0 : 1

  name                      = var.name
  tags                      = var.tags
  kms_key_arn               = local.kms_key_arn
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.private_subnet_ids
  client_security_group_ids = { functions = aws_security_group.functions[0].id }
  instance_class            = var.database.instance_class
  storage_gb                = var.database.storage_gb
  multi_az                  = var.database.multi_az
  backup_days               = var.database.backup_days
  deletion_protection       = var.database.deletion_protection
  log_retention_days        = var.log_retention_days
}

# Functions that write the audit trail run in the network, where nobody reaches them.
resource "aws_security_group" "functions" {
  #checkov:skip=CKV2_AWS_5:The functions that have it are in other modules.
  count = var.database == null ? 0 : 1

  name        = "${var.name}-functions"
  description = "Functions: TLS, and PostgreSQL to the database"
  vpc_id      = module.network.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-functions" })
}

resource "aws_vpc_security_group_egress_rule" "functions_tls" {
  count = var.database == null ? 0 : 1

  security_group_id = aws_security_group.functions[0].id
  description       = "TLS to AWS and to the index"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "functions_postgresql" {
  count = var.database == null ? 0 : 1

  security_group_id            = aws_security_group.functions[0].id
  description                  = "PostgreSQL to the database"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = module.database[0].security_group_id
  tags                         = var.tags
}

module "webhook" {
  source = "../webhook"
  count  = local.function_count

  name               = var.name
  tags               = var.tags
  kms_key_arn        = local.kms_key_arn
  data               = local.data
  settings           = local.webhook_settings
  package            = local.packages["webhook"]
  vpc                = local.function_vpc
  memory_mb          = var.webhook_memory_mb
  throttling         = var.throttling
  domain             = var.domain
  log_retention_days = var.log_retention_days

  permissions_boundary_arn = var.permissions_boundary_arn

  reserved_concurrency = var.webhook_reserved_concurrency
  secrets_version      = var.secrets_version
}

module "consumers" {
  source = "../consumers"
  count  = local.function_count

  name               = var.name
  tags               = var.tags
  kms_key_arn        = local.kms_key_arn
  data               = local.data
  settings           = local.settings
  packages           = { for function, package in local.packages : function => package if function != "webhook" }
  vpc                = local.function_vpc
  mappings           = var.mappings
  one_at_a_time      = var.one_at_a_time
  log_retention_days = var.log_retention_days

  permissions_boundary_arn = var.permissions_boundary_arn

  secrets_version = var.secrets_version
}

module "workers" {
  source = "../workers"
  count  = local.fleet_count

  name               = var.name
  tags               = var.tags
  kms_key_arn        = local.kms_key_arn
  data               = local.data
  settings           = local.worker_settings
  subnet_ids         = module.network.private_subnet_ids
  security_group_ids = [module.network.worker_security_group_id]
  variants           = local.fleets
  alarm_topic_arns   = local.alarm_topic_arns
  log_retention_days = var.log_retention_days

  permissions_boundary_arn = var.permissions_boundary_arn

  secrets_version = var.secrets_version
}

module "frontend" {
  source = "../frontend"
  count  = var.frontend == null ? 0 : 1

  providers = {
    aws           = aws
    aws.us_east_1 = aws.us_east_1
  }

  name          = var.name
  tags          = var.tags
  kms_key_arn   = local.kms_key_arn
  bucket_name   = "${var.name}-frontend-${var.bucket_suffix}"
  force_destroy = !var.protection.keep_contents
  domain        = var.frontend.domain
  zone_id       = var.frontend.zone_id
  waf           = var.frontend.waf
  api_origins   = local.function_count == 0 ? [] : [module.webhook[0].api_url]
}

module "observability" {
  source = "../observability"

  name              = var.name
  tags              = var.tags
  kms_key_arn       = local.kms_key_arn
  functions         = local.function_names
  request_functions = local.function_count == 0 ? [] : ["webhook"]
  log_group_names   = local.log_group_names
  queues            = module.sqs.queues
  change_queues     = module.sqs.change_queues
  has_api           = local.function_count > 0
  api_id            = one(module.webhook[*].api_id)
  groups            = local.groups
  instance_hour_usd = {
    for name, variant in var.variants : name => variant.instance_hour_usd if variant.instance_hour_usd != null
  }
  alarm_emails       = var.alarm_emails
  monthly_budget_usd = var.monthly_budget_usd

  budget_tag = var.budget_tag
}
