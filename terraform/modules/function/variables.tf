variable "function_name" {
  description = "Of the function; its role and log group are named after it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,62}[a-z0-9]$", var.function_name))
    error_message = "function_name must be 3 to 64 lower-case letters, digits and dashes, and begin with a letter."
  }
}

variable "description" {
  description = "One line that the console shows beside the name."
  type        = string
  default     = ""
}

variable "handler" {
  description = "MODULE.FUNCTION: the handler of a zip, or what an image is told to run."
  type        = string

  validation {
    condition     = can(regex("^[a-z_]+(\\.[a-z_]+)+$", var.handler))
    error_message = "handler must be a Python module and a function in it: webhook.lambda_entry.handler."
  }
}

variable "package" {
  description = "What to run: an image in ECR, best by its digest, or a zip on this machine; exactly one of them."
  type = object({
    image_uri = optional(string)
    zip_path  = optional(string)
  })

  validation {
    condition     = (var.package.image_uri == null) != (var.package.zip_path == null)
    error_message = "package needs image_uri or zip_path, and not both."
  }
}

variable "runtime" {
  description = "Of a zip; an image brings its own."
  type        = string
  default     = "python3.12"

  validation {
    condition     = can(regex("^python3\\.(1[1-9])$", var.runtime))
    error_message = "runtime must be python3.11 or newer."
  }
}

variable "environment" {
  description = "Environment variables. No secrets: name them in BLOOMWEAVER_SECRET_IDS."
  type        = map(string)
  default     = {}
}

variable "statements" {
  description = "What the function may do besides writing its log. Actions and resources without wildcards for whole services."
  type = list(object({
    sid        = string
    effect     = optional(string, "Allow")
    actions    = list(string)
    resources  = list(string)
    conditions = optional(map(map(list(string))), {})
  }))
  default = []

  validation {
    condition     = alltrue([for one in var.statements : contains(["Allow", "Deny"], one.effect)])
    error_message = "statements' effect must be Allow or Deny."
  }

  validation {
    condition     = alltrue([for one in var.statements : !contains(one.actions, "*") && alltrue([for action in one.actions : !endswith(action, ":*")])])
    error_message = "statements must name their actions: none may be * or SERVICE:*."
  }

  validation {
    condition     = alltrue([for one in var.statements : length(one.resources) > 0 && !contains(one.resources, "*")])
    error_message = "statements must name their resources: none may be *."
  }
}

variable "memory_mb" {
  description = "Memory; the share of a processor grows with it (a whole one at 1,769 MB)."
  type        = number
  default     = 512

  validation {
    condition     = var.memory_mb >= 256 && var.memory_mb <= 10240
    error_message = "memory_mb must be between 256 and 10240."
  }
}

variable "timeout_seconds" {
  description = "An event is cut off after so long; a start alone takes some 2 s."
  type        = number
  default     = 30

  validation {
    condition     = var.timeout_seconds >= 10 && var.timeout_seconds <= 900
    error_message = "timeout_seconds must be between 10 and 900."
  }
}

variable "reserved_concurrency" {
  description = "Events at once at most, taken from the account's own limit; null: no limit of its own."
  type        = number
  default     = null

  validation {
    condition     = var.reserved_concurrency == null ? true : var.reserved_concurrency >= 0
    error_message = "reserved_concurrency must be null or at least 0."
  }
}

variable "architecture" {
  description = "x86_64 or arm64, as the image or the zip was built."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture must be x86_64 or arm64."
  }
}

variable "vpc" {
  description = "Subnets and security groups to run in, for a database that is reached there; null: outside any VPC."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null
}

variable "tracing" {
  description = "Send traces to X-Ray, which are paid for."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps the function's log."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827], var.log_retention_days)
    error_message = "log_retention_days must be one of those that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, …"
  }
}

variable "kms_key_arn" {
  description = "Encrypts the environment and the log, and what the function reads and writes; null: keys of AWS."
  type        = string
  default     = null
}

variable "tags" {
  description = "Of everything."
  type        = map(string)
  default     = {}
}

variable "permissions_boundary_arn" {
  description = "Policy that bounds every role made here, for accounts that let no role be made without one; null: none."
  type        = string
  default     = null
}
