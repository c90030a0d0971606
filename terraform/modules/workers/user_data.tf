locals {
  # A profile is for the roles that hold no model. A worker that is given none goes by what its image holds.
  shared = { for name, value in var.settings : name => value if !(name == "BLOOMWEAVER_EMBEDDER_URL" && startswith(value, "profile:")) }

  # The worker of a variant finds its model in the variants' JSON, that of the rest in a variable of its own.
  models = {
    for key, fleet in local.fleets : key => fleet.embedder_url == null ? {} : key == "default" ? {
      BLOOMWEAVER_EMBEDDER_URL = fleet.embedder_url
      } : {
      BLOOMWEAVER_EMBEDDING_VARIANTS = jsonencode({
        for name, variant in jsondecode(lookup(var.settings, "BLOOMWEAVER_EMBEDDING_VARIANTS", "{}")) :
        name => name == key ? merge(variant, { embedder_url = fleet.embedder_url }) : variant
      })
    }
  }

  environment = {
    for key, fleet in local.fleets : key => merge(
      key == "default" ? local.shared : var.settings,
      local.models[key],
      {
        AWS_DEFAULT_REGION                = local.region
        AWS_REGION                        = local.region
        BLOOMWEAVER_DATA_DIR              = "/tmp/bloomweaver"
        BLOOMWEAVER_DRAIN_TIMEOUT_SECONDS = tostring(var.drain_timeout_seconds)
        BLOOMWEAVER_EC2_NOTICES           = "on"
        BLOOMWEAVER_EMBEDDING_VARIANT     = key == "default" ? "" : key
        BLOOMWEAVER_LIFECYCLE_HOOK_NAME   = local.hook_name
        BLOOMWEAVER_LOG_FORMAT            = "json"
        BLOOMWEAVER_SCALE_IN_PROTECTION   = "on"
        HOME                              = "/tmp"
      },
      fleet.gpu ? { BLOOMWEAVER_DEVICE = "cuda" } : {},
      # The version is read by nobody: a change of it replaces the instances.
      length(local.secrets) == 0 ? {} : {
        BLOOMWEAVER_SECRET_IDS      = join(",", local.secrets)
        BLOOMWEAVER_SECRETS_VERSION = var.secrets_version
      },
      fleet.settings,
    )
  }

  user_data = {
    for key, fleet in local.fleets : key => templatefile("${path.module}/templates/user_data.sh.tftpl", {
      pull_image  = file("${path.module}/templates/pull-image.sh")
      environment = local.environment[key]
      unit = templatefile("${path.module}/templates/worker.service.tftpl", {
        variant      = key
        image        = fleet.image_uri
        region       = local.region
        log_group    = "/${var.name}/worker/${key}"
        scratch_mb   = var.scratch_mb
        gpu          = fleet.gpu
        stop_seconds = var.drain_timeout_seconds + 15
      })
    })
  }
}
