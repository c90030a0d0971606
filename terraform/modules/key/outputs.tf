output "arn" {
  description = "The key, for every kms_key_arn."
  # Put together, and not taken as it is: so a plan that makes the key knows that it will not be null.
  value = "arn:${local.partition}:kms:${local.region}:${local.account}:key/${aws_kms_key.this.key_id}"
}

output "alias" {
  description = "The key's name: alias/NAME."
  value       = aws_kms_alias.this.name
}
