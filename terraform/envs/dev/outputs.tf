output "api_url" {
  description = "Where the webhook answers; null before there is an image."
  value       = module.bloomweaver.api_url
}

output "repository_urls" {
  description = "Where images are pushed to, by repository."
  value       = module.bloomweaver.repository_urls
}

output "secret_arns" {
  description = "The secrets whose values you put: pinecone, webhook, operator."
  value       = module.bloomweaver.secret_arns
}

output "kms_key_arn" {
  description = "The key that encrypts what is kept; null: AWS's own keys."
  value       = module.bloomweaver.kms_key_arn
}

output "settings" {
  description = "BLOOMWEAVER_* variables for commands on your own machine (keys, doctor, dlq), with the profiles of the models."
  value       = module.bloomweaver.settings
}

output "worker_settings" {
  description = "The same for a worker of your own: with the URLs of the models."
  value       = module.bloomweaver.worker_settings
}

output "landing_bucket" {
  description = "Files under incoming/NAMESPACE/ in it become documents."
  value       = module.bloomweaver.landing_bucket
}

output "blobs_bucket" {
  description = "Contents and packs."
  value       = module.bloomweaver.blobs_bucket
}

output "functions" {
  description = "Names of the functions by role; empty before there is an image."
  value       = module.bloomweaver.functions
}

output "groups" {
  description = "The workers' Auto Scaling groups by variant, {name, arn}."
  value       = module.bloomweaver.groups
}

output "queues" {
  description = "Queues by role, and change queues by variant, {name, arn, url}."
  value       = module.bloomweaver.queues
}

output "frontend" {
  description = "The console's bucket, distribution_id and url; null without one."
  value       = module.bloomweaver.frontend
}

output "database" {
  description = "The audit trail's database: endpoint, the secret with its master password, and the security group and subnets from which it is reached; null without one."
  value       = module.bloomweaver.database
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = module.bloomweaver.dashboard_name
}
