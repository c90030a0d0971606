output "api_url" {
  description = "Where the webhook answers; null before there is an image."
  value       = one(module.webhook[*].api_url)
}

output "repository_urls" {
  description = "Where images are pushed to, by repository."
  value       = module.ecr.repository_urls
}

output "secret_arns" {
  description = "The secrets whose values you put: pinecone, webhook, operator."
  value       = module.secrets.secret_arns
}

output "kms_key_arn" {
  description = "The key that encrypts what is kept; null: AWS's own keys."
  value       = local.kms_key_arn

  precondition {
    condition     = !(var.customer_key && var.kms_key_arn != null)
    error_message = "kms_key_arn names a key and customer_key makes another one: give one of them."
  }
}

output "settings" {
  description = "BLOOMWEAVER_* variables for commands on your own machine (keys, doctor, dlq), with the profiles of the models."
  value       = local.settings
}

output "worker_settings" {
  description = "The same for a worker of your own: with the URLs of the models."
  value       = local.worker_settings
}

output "landing_bucket" {
  description = "Files under incoming/NAMESPACE/ in it become documents."
  value       = module.storage.landing.bucket
}

output "blobs_bucket" {
  description = "Contents and packs."
  value       = module.storage.blobs.bucket
}

output "functions" {
  description = "Names of the functions by role; empty before there is an image."
  value       = local.function_names
}

output "groups" {
  description = "The workers' Auto Scaling groups by variant, {name, arn}."
  value       = local.groups
}

output "queues" {
  description = "Queues by role, and change queues by variant, {name, arn, url}."
  value = {
    queues        = module.sqs.queues
    change_queues = module.sqs.change_queues
  }
}

output "frontend" {
  description = "The console's bucket, distribution_id and url; null without one."
  value = var.frontend == null ? null : {
    bucket          = one(module.frontend[*].bucket)
    distribution_id = one(module.frontend[*].distribution_id)
    url             = one(module.frontend[*].url)
  }
}

output "database" {
  description = "The audit trail's database: endpoint, the secret with its master password, and the security group and subnets from which it is reached; null without one."
  value = var.database == null ? null : {
    endpoint   = one(module.database[*].endpoint)
    secret_arn = one(module.database[*].secret_arn)

    security_group_id = one(aws_security_group.functions[*].id)
    subnet_ids        = module.network.private_subnet_ids
  }

  precondition {
    condition     = var.database == null || var.network.nat
    error_message = "database: the functions move into the network with it, and reach the index outside AWS by NAT only: set network.nat."
  }
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = module.observability.dashboard_name
}
