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

variable "package" {
  description = "What the functions run: an image in ECR, or a zip on this machine; exactly one of them."
  type = object({
    image_uri = optional(string)
    zip_path  = optional(string)
  })
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
  description = "Which of data.secret_arns the webhook reads at its start."
  type        = list(string)
  default     = ["pinecone", "webhook"]
}

variable "memory_mb" {
  description = "Of the function: 512 to accept, 1024 in an image that holds a model and searches."
  type        = number
  default     = 512
}

variable "timeout_seconds" {
  description = "Of a request, its start included. API Gateway gives none longer than 30."
  type        = number
  default     = 30

  validation {
    condition     = var.timeout_seconds >= 10 && var.timeout_seconds <= 30
    error_message = "timeout_seconds must be between 10 and 30: API Gateway waits no longer."
  }
}

variable "reserved_concurrency" {
  description = "Requests at once at most; null: what the account allows."
  type        = number
  default     = null
}

variable "throttling" {
  description = "Requests a second, and how many at once on top, by route: $default and those that have limits of their own. Beyond them API Gateway answers 429 by itself."
  type        = map(object({ rate = number, burst = number }))
  default = {
    "$default"                                = { rate = 200, burst = 400 }
    "POST /v1/changes"                        = { rate = 100, burst = 200 }
    "POST /v1/sources/{name}"                 = { rate = 100, burst = 200 }
    "POST /v1/namespaces/{namespace}/search"  = { rate = 50, burst = 100 }
    "PUT /v1/namespaces/{namespace}/{proxy+}" = { rate = 100, burst = 200 }
  }

  validation {
    condition     = contains(keys(var.throttling), "$default")
    error_message = "throttling needs $default: every other request goes there."
  }

  validation {
    condition     = alltrue([for key in keys(var.throttling) : key == "$default" || can(regex("^(GET|POST|PUT|DELETE|PATCH|OPTIONS|ANY) /", key))])
    error_message = "throttling's keys must be $default, or METHOD /path as API Gateway writes routes."
  }

  validation {
    condition     = alltrue([for one in values(var.throttling) : one.rate > 0 && one.burst > 0])
    error_message = "throttling's rates and bursts must be above 0: 0 closes a route."
  }
}

variable "domain" {
  description = "A name of your own in a zone of Route 53, with its certificate; null: API Gateway's own name. keep_default_endpoint leaves that one open beside it."
  type = object({
    name                  = string
    zone_id               = string
    keep_default_endpoint = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.domain == null ? true : can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain.name))
    error_message = "domain.name must be a whole host name in small letters: api.example.com."
  }
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
