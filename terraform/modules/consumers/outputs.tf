output "functions" {
  description = "create, update, delete, intake, sweep and scrub."
  value       = { for key, one in module.function : key => { name = one.function.name, arn = one.function.arn } }
}

output "role_arns" {
  description = "Of the roles that they run with."
  value       = { for key, one in module.function : key => one.role_arn }
}

output "log_group_names" {
  description = "Where they write."
  value       = { for key, one in module.function : key => one.log_group_name }
}

output "images" {
  description = "What each of them runs; null for a zip."
  value       = { for key, one in module.function : key => one.function.image_uri }
}
