variable "name" {
  description = "Start of every name, such as bloomweaver-dev."
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

variable "kms_key_arn" {
  description = "Customer managed key that encrypts the values. Who reads them must be allowed kms:Decrypt. Null: the key that AWS manages for Secrets Manager."
  type        = string
  default     = null
}

variable "recovery_window_days" {
  description = "Days for which a deleted secret can be brought back, 7 to 30. 0 deletes at once, so that the same names can be made again."
  type        = number
  default     = 30

  validation {
    condition     = var.recovery_window_days == 0 || (var.recovery_window_days >= 7 && var.recovery_window_days <= 30)
    error_message = "Secrets Manager takes 7 to 30 days, or 0 for none."
  }
}
