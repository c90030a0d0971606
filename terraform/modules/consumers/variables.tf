variable "name" {
  description = "Begins the names of everything: bloomweaver-dev."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,29}[a-z0-9]$", var.name))
    error_message = "name must be 2 to 31 lower-case letters, digits and dashes, and begin with a letter."
  }
}

variable "data" {
  description = "What is read and written: queues, table, buckets and secrets, as the modules sqs, registry, storage and secrets tell them."
  type = object({
    queues        = map(object({ name = string, arn = string, url = string }))
    change_queues = map(object({ name = string, arn = string, url = string }))
    table         = object({ name = string, arn = string })
    blobs         = object({ bucket = string, arn = string, prefix = string })
    landing       = object({ bucket = string, arn = string })
    secret_arns   = map(string)
  })

  validation {
    condition     = length(setsubtract(["create", "update", "delete", "intake", "dead_letter"], keys(var.data.queues))) == 0
    error_message = "data.queues needs create, update, delete, intake and dead_letter."
  }

  validation {
    condition     = contains(keys(var.data.change_queues), "default")
    error_message = "data.change_queues needs default."
  }
}

variable "settings" {
  description = "The BLOOMWEAVER_* variables that all roles share. No secrets."
  type        = map(string)

  validation {
    condition     = length(setintersection(keys(var.settings), ["BLOOMWEAVER_PINECONE_API_KEY", "BLOOMWEAVER_API_KEY", "BLOOMWEAVER_AUDIT_KEY"])) == 0
    error_message = "settings must hold no secrets: put them into Secrets Manager."
  }
}

variable "packages" {
  description = "What each function runs: an image in ECR, or a zip on this machine; exactly one of them."
  type = map(object({
    image_uri = optional(string)
    zip_path  = optional(string)
  }))

  validation {
    condition     = toset(keys(var.packages)) == toset(["create", "update", "delete", "intake", "sweep", "scrub"])
    error_message = "packages must name create, update, delete, intake, sweep and scrub."
  }
}

variable "vpc" {
  description = "Subnets and security groups of the functions, for a database that is reached there; null: outside any VPC."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null
}

variable "architecture" {
  description = "x86_64 or arm64, as the package was built."
  type        = string
  default     = "x86_64"
}

variable "tracing" {
  description = "Send traces to X-Ray."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps the logs."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "The customer key of queues, table, buckets, secrets, environments and logs; null: keys of AWS."
  type        = string
  default     = null
}

variable "tags" {
  description = "Of everything."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Which of data.secret_arns each function reads at its start. The intake opens no index; it may need the address of the audit trail."
  type        = map(list(string))
  default = {
    create = ["pinecone"]
    update = ["pinecone"]
    delete = ["pinecone"]
    sweep  = ["pinecone"]
    scrub  = ["pinecone"]
    intake = ["webhook"]
  }

  validation {
    condition     = toset(keys(var.secrets)) == toset(["create", "update", "delete", "intake", "sweep", "scrub"])
    error_message = "secrets must name create, update, delete, intake, sweep and scrub."
  }
}

variable "memory_mb" {
  description = "Of each function; those that are not named have 512."
  type        = map(number)
  default     = { scrub = 1024, sweep = 1024 }
}

variable "timeout_seconds" {
  description = "Of each function. Those that take messages must end before their queue shows them again (visibility_timeout_seconds)."
  type        = map(number)
  default     = { create = 120, update = 120, delete = 120, intake = 240, sweep = 900, scrub = 900 }

  validation {
    condition     = toset(keys(var.timeout_seconds)) == toset(["create", "update", "delete", "intake", "sweep", "scrub"])
    error_message = "timeout_seconds must name create, update, delete, intake, sweep and scrub."
  }

  validation {
    condition     = alltrue([for seconds in values(var.timeout_seconds) : seconds >= 30 && seconds <= 900])
    error_message = "timeout_seconds must be between 30 and 900."
  }
}

variable "visibility_timeout_seconds" {
  description = "Of the queues, as the module sqs sets it."
  type        = number
  default     = 300
}

variable "mappings" {
  description = "How messages come: how many at once, how long Lambda waits for company, and how many batches are worked side by side (2 to 1,000)."
  type        = map(object({ batch_size = number, window_seconds = number, maximum_concurrency = number }))
  default = {
    create = { batch_size = 10, window_seconds = 0, maximum_concurrency = 10 }
    update = { batch_size = 10, window_seconds = 0, maximum_concurrency = 10 }
    delete = { batch_size = 10, window_seconds = 0, maximum_concurrency = 5 }
    intake = { batch_size = 10, window_seconds = 0, maximum_concurrency = 5 }
  }

  validation {
    condition     = toset(keys(var.mappings)) == toset(["create", "update", "delete", "intake"])
    error_message = "mappings must name create, update, delete and intake."
  }

  validation {
    condition     = alltrue([for one in values(var.mappings) : one.maximum_concurrency >= 2 && one.maximum_concurrency <= 1000])
    error_message = "mappings' maximum_concurrency must be between 2 and 1000: Lambda takes no other."
  }

  validation {
    condition     = alltrue([for one in values(var.mappings) : one.batch_size >= 1 && (one.batch_size <= 10 || one.window_seconds >= 1) && one.batch_size <= 10000])
    error_message = "mappings' batch_size must be at least 1, and above 10 only with a window_seconds of at least 1."
  }

  validation {
    condition     = alltrue([for one in values(var.mappings) : one.window_seconds >= 0 && one.window_seconds <= 300])
    error_message = "mappings' window_seconds must be between 0 and 300."
  }
}

variable "schedules" {
  description = "When a function is called without messages, and with which input; times are UTC."
  type        = map(object({ function = string, expression = string, input = map(bool) }))
  default = {
    "sweep-rows"     = { function = "sweep", expression = "rate(5 minutes)", input = {} }
    "sweep-blobs"    = { function = "sweep", expression = "rate(1 hour)", input = { blobs = true } }
    "scrub"          = { function = "scrub", expression = "cron(0 2 * * ? *)", input = {} }
    "intake-listing" = { function = "intake", expression = "rate(15 minutes)", input = { listing = true } }
  }

  validation {
    condition     = alltrue([for one in values(var.schedules) : contains(["sweep", "scrub", "intake"], one.function)])
    error_message = "schedules call sweep, scrub or intake."
  }

  validation {
    condition     = alltrue([for one in values(var.schedules) : can(regex("^(rate|cron)\\(.+\\)$", one.expression))])
    error_message = "schedules' expressions must be rate(…) or cron(…)."
  }
}

variable "one_at_a_time" {
  description = "Reserve a concurrency of one for sweep and scrub each, so that none runs beside itself. The account must have 2 above the 100 that stay unreserved; a new one, limited to 10, has not: set it to false there, which costs work done twice and nothing else."
  type        = bool
  default     = true
}

variable "permissions_boundary_arn" {
  description = "Policy that bounds every role made here, for accounts that let no role be made without one; null: none."
  type        = string
  default     = null
}

variable "secrets_version" {
  description = "Change it when a secret has a new value: who reads secrets starts anew then, and reads them again."
  type        = string
  default     = "1"
}
