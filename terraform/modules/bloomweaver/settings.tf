# The settings that all roles share, and the objects that the modules of roles are given.
locals {
  default_profile = var.variants["default"].profile
  other_variants  = { for name, variant in var.variants : name => variant if name != "default" }

  queue_settings = {
    BLOOMWEAVER_CHANGE_QUEUE_NAME      = module.sqs.change_queues["default"].name
    BLOOMWEAVER_CREATE_QUEUE_NAME      = module.sqs.queues["create"].name
    BLOOMWEAVER_UPDATE_QUEUE_NAME      = module.sqs.queues["update"].name
    BLOOMWEAVER_DELETE_QUEUE_NAME      = module.sqs.queues["delete"].name
    BLOOMWEAVER_DEAD_LETTER_QUEUE_NAME = module.sqs.queues["dead_letter"].name
    BLOOMWEAVER_INTAKE_QUEUE_NAME      = module.sqs.queues["intake"].name
  }

  # By profile for the roles that hold no model, by URL for the workers that load one.
  embedding_variants = {
    for kind in ["profile", "embedder_url"] : kind => jsonencode({
      for name, variant in local.other_variants : name => {
        namespaces        = variant.namespaces
        change_queue_name = module.sqs.change_queues[name].name
        embedder_url      = variant[kind]
      }
    })
  }

  # With a database its address is a secret (BLOOMWEAVER_AUDIT_URL of the secret `webhook`).
  audit_settings = var.database == null ? { BLOOMWEAVER_AUDIT_URL = "none:" } : {}
  kms_settings   = local.kms_key_arn == null ? {} : { BLOOMWEAVER_BLOBS_KMS_KEY_ID = local.kms_key_arn }

  shared_settings = merge(
    {
      BLOOMWEAVER_QUEUE_URL    = "sqs:"
      BLOOMWEAVER_REGISTRY_URL = "dynamodb:${module.registry.table.name}"
      BLOOMWEAVER_BLOBS_URL    = "s3://${module.storage.blobs.bucket}/${module.storage.blobs.prefix}"
      BLOOMWEAVER_LANDING_URL  = "s3://${module.storage.landing.bucket}"
      BLOOMWEAVER_INDEX_URL    = var.index_url
      BLOOMWEAVER_VECTORS_URL  = "none:"
      BLOOMWEAVER_LOG_FORMAT   = "json"
    },
    local.queue_settings,
    local.audit_settings,
    local.kms_settings,
    var.settings,
  )

  settings = merge(local.shared_settings, {
    BLOOMWEAVER_EMBEDDER_URL       = local.default_profile
    BLOOMWEAVER_EMBEDDING_VARIANTS = local.embedding_variants["profile"]
  })

  # The console's pages call the API from a browser. What settings say of origins wins.
  webhook_settings = merge(
    var.frontend == null ? {} : { BLOOMWEAVER_CORS_ORIGINS = jsonencode([module.frontend[0].url]) },
    local.settings,
    var.webhook_settings,
  )

  worker_settings = merge(local.shared_settings, {
    BLOOMWEAVER_EMBEDDER_URL       = var.variants["default"].embedder_url
    BLOOMWEAVER_EMBEDDING_VARIANTS = local.embedding_variants["embedder_url"]
  })

  data = {
    queues        = module.sqs.queues
    change_queues = module.sqs.change_queues
    table         = module.registry.table
    blobs         = module.storage.blobs
    landing       = module.storage.landing
    secret_arns   = module.secrets.secret_arns
  }
}
