variable "name" {
  description = "Prefix of every name, such as bloomweaver-dev."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,29}[a-z0-9]$", var.name))
    error_message = "name must be 2 to 31 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "tags" {
  description = "Tags of everything that takes tags."
  type        = map(string)
  default     = {}
}

variable "kms_key_arn" {
  description = "Key that encrypts storage, Performance Insights, the master password and the logs (whose policy must then let logs.amazonaws.com use it). null: AWS's own keys."
  type        = string
  default     = null
}

variable "vpc_id" {
  description = "VPC of the database."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, in at least two availability zones."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "RDS needs subnets in at least two availability zones."
  }
}

variable "client_security_group_ids" {
  description = "Security groups whose members may connect, by a name of your own; nobody else can."
  type        = map(string)
}

variable "engine_version" {
  description = "PostgreSQL's major version (\"17\"), which then follows its minor ones, or a full one."
  type        = string
  default     = "17"

  validation {
    condition     = can(regex("^(1[5-9]|[2-9][0-9])(\\.[0-9]+)?$", var.engine_version))
    error_message = "engine_version must be such as \"17\" or \"17.6\", and at least 15."
  }
}

variable "instance_class" {
  description = "Instance class."
  type        = string
  default     = "db.t4g.micro"

  validation {
    condition     = can(regex("^db\\.[a-z0-9-]+\\.[a-z0-9]+$", var.instance_class))
    error_message = "instance_class must be such as db.t4g.micro."
  }
}

variable "storage_gb" {
  description = "Storage to begin with, in GB; it grows up to max_storage_gb by itself."
  type        = number
  default     = 20

  validation {
    condition     = var.storage_gb >= 20
    error_message = "storage_gb must be at least 20."
  }
}

variable "max_storage_gb" {
  description = "Storage that it may grow to, in GB."
  type        = number
  default     = 100
}

variable "database_name" {
  description = "Database made at the start."
  type        = string
  default     = "bloomweaver"

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.database_name))
    error_message = "database_name must be lower-case letters, digits and underscores, and begin with a letter."
  }
}

variable "multi_az" {
  description = "Whether a second instance stands by in another availability zone; it doubles the price."
  type        = bool
  default     = false
}

variable "iam_authentication" {
  description = "Whether roles may sign in with tokens of IAM instead of passwords. The product itself signs in with what BLOOMWEAVER_AUDIT_URL says."
  type        = bool
  default     = false
}

variable "backup_days" {
  description = "Days that backups are kept, and that the database can be put back to any second of."
  type        = number
  default     = 7

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days must lie between 1 and 35: an audit trail without backups is none."
  }
}

variable "deletion_protection" {
  description = "Whether the database refuses to be deleted, and keeps a last snapshot when it is."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "Days that PostgreSQL's logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one that CloudWatch knows, such as 7, 30, 90 or 365."
  }
}

variable "apply_immediately" {
  description = "Whether changes come at once, with the interruption they may bring, or in the maintenance window."
  type        = bool
  default     = false
}
