variable "name" {
  description = "Start of every name, such as bloomweaver-dev. The key's alias is alias/NAME."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "The name must be 2 to 31 lower case letters, digits or hyphens, a letter first."
  }
}

variable "tags" {
  description = "Tags of everything made here."
  type        = map(string)
  default     = {}
}

variable "deletion_window_days" {
  description = "Days in which a key that is to be deleted can still be kept. What it encrypted is lost after them."
  type        = number
  default     = 30

  validation {
    condition     = var.deletion_window_days >= 7 && var.deletion_window_days <= 30 && floor(var.deletion_window_days) == var.deletion_window_days
    error_message = "AWS takes 7 to 30 days."
  }
}

variable "auto_scaling" {
  description = "Whether Auto Scaling may start instances whose volumes this key encrypts. Its service-linked role must be there first, or AWS refuses the key's policy (README)."
  type        = bool
  default     = true
}

variable "cloudfront" {
  description = "Whether CloudFront may decrypt, for distributions of this account."
  type        = bool
  default     = true
}
