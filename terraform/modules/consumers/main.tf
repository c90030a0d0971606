locals {
  # What takes messages, and what only schedules call.
  mapped    = ["create", "update", "delete", "intake"]
  scheduled = ["sweep", "scrub"]

  functions = {
    create = { handler = "workers.lambda_entry.create", description = "Writes new documents into the index" }
    update = { handler = "workers.lambda_entry.update", description = "Writes documents' changes into the index" }
    delete = { handler = "workers.lambda_entry.delete", description = "Removes documents from the index" }
    intake = { handler = "webhook.lambda_entry.intake", description = "Takes in files of the landing zone" }
    sweep  = { handler = "workers.lambda_entry.sweep", description = "Wakes what stays behind, removes what nothing refers to" }
    scrub  = { handler = "workers.lambda_entry.scrub", description = "Compares the index with the registry" }
  }

  secret_arns = { for key, names in var.secrets : key => [for name in names : var.data.secret_arns[name]] }
  # The version is read by nobody: a change of it makes Lambda start anew, and read the secrets again.
  secret_settings = {
    for key, arns in local.secret_arns : key => length(arns) == 0 ? {} : {
      BLOOMWEAVER_SECRET_IDS      = join(",", arns)
      BLOOMWEAVER_SECRETS_VERSION = var.secrets_version
    }
  }
  own_settings = {
    BLOOMWEAVER_VISIBILITY_TIMEOUT_SECONDS = tostring(var.visibility_timeout_seconds)
  }
}

module "function" {
  source   = "../function"
  for_each = local.functions

  function_name        = "${var.name}-${each.key}"
  description          = each.value.description
  handler              = each.value.handler
  package              = var.packages[each.key]
  environment          = merge(var.settings, local.own_settings, local.secret_settings[each.key])
  statements           = local.statements[each.key]
  memory_mb            = lookup(var.memory_mb, each.key, 512)
  timeout_seconds      = var.timeout_seconds[each.key]
  reserved_concurrency = var.one_at_a_time && contains(local.scheduled, each.key) ? 1 : null
  architecture         = var.architecture
  vpc                  = var.vpc
  tracing              = var.tracing
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tags                 = var.tags

  permissions_boundary_arn = var.permissions_boundary_arn
}

resource "aws_lambda_event_source_mapping" "this" {
  for_each = var.mappings

  event_source_arn                   = var.data.queues[each.key].arn
  function_name                      = module.function[each.key].function.arn
  batch_size                         = each.value.batch_size
  maximum_batching_window_in_seconds = each.value.window_seconds
  function_response_types            = ["ReportBatchItemFailures"]
  tags                               = var.tags

  scaling_config {
    maximum_concurrency = each.value.maximum_concurrency
  }

  lifecycle {
    precondition {
      condition     = var.timeout_seconds[each.key] + each.value.window_seconds < var.visibility_timeout_seconds
      error_message = "${each.key}: timeout_seconds and the window together must be below the queue's visibility timeout of ${var.visibility_timeout_seconds} s, or messages are shown to another function while this one works on them."
    }
  }
}
