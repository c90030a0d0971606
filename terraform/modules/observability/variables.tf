variable "name" {
  description = "Prefix of every name, such as bloomweaver-dev; the metrics' namespace is BloomWeaver/<name>."
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
  description = "Key that encrypts the topic. Its policy must let cloudwatch.amazonaws.com and budgets.amazonaws.com use it. null: a key is made, because AWS's own key for SNS lets neither publish."
  type        = string
  default     = null
}

variable "functions" {
  description = "Lambda functions by role: {webhook = \"bloomweaver-dev-webhook\", create = …}. Each has an alarm on its errors."
  type        = map(string)
}

variable "request_functions" {
  description = "Keys of functions that answer requests: there a throttle is a request refused, and alarms. Those that are not among functions yet are passed over."
  type        = set(string)
  default     = ["webhook"]
}

variable "log_group_names" {
  description = "Log groups in which the consumers, the sweeper and the embedding workers write JSON lines, by a name of your own: {create = \"/aws/lambda/…\"}. Metrics are made of their lines."
  type        = map(string)
}

variable "queues" {
  description = "Queues by role (create, update, delete, intake, dead_letter, intake_dead_letter), as module sqs tells them."
  type        = map(object({ name = string, arn = string, url = string }))
}

variable "change_queues" {
  description = "Change queues by embedding variant, as module sqs tells them."
  type        = map(object({ name = string, arn = string, url = string }))
}

variable "api_id" {
  description = "Id of the HTTP API. null where there is none yet: nothing is said of its requests then."
  type        = string
  default     = null
}

variable "has_api" {
  description = "Whether there is an API, for who makes it in the same plan: its id is not known yet then. null: if api_id is not null."
  type        = bool
  default     = null
}

variable "groups" {
  description = "Auto Scaling Groups of the embedding workers by variant. They must have the metric GroupInServiceInstances switched on."
  type        = map(object({ name = string, arn = string }))
  default     = {}
}

variable "instance_hour_usd" {
  description = "What an instance hour of each variant's group is taken to cost, in US dollars; look it up for your region and instance type. Variants that are left out are not in the estimate."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for price in values(var.instance_hour_usd) : price >= 0])
    error_message = "Prices must not be negative."
  }
}

variable "alarm_emails" {
  description = "Addresses that every alarm and the budget write to. Each must confirm its subscription by the link that AWS sends."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", email))])
    error_message = "alarm_emails must hold email addresses."
  }
}

variable "error_rate_percent" {
  description = "Share of failed requests, or of failed tries of messages, above which an alarm goes off."
  type        = number
  default     = 5

  validation {
    condition     = var.error_rate_percent > 0 && var.error_rate_percent < 100
    error_message = "error_rate_percent must lie between 0 and 100."
  }
}

variable "error_rate_least_count" {
  description = "Requests, or tries, in five minutes below which their error rate is not judged: one failure of two is no 50 %."
  type        = number
  default     = 10

  validation {
    condition     = var.error_rate_least_count >= 1 && floor(var.error_rate_least_count) == var.error_rate_least_count
    error_message = "error_rate_least_count must be a whole number of at least 1."
  }
}

variable "freshness_p95_seconds" {
  description = "From accept to visible, 95th percentile, above which an alarm goes off. The first message after an idle time waits for an instance to start, which takes minutes."
  type        = number
  default     = 600

  validation {
    condition     = var.freshness_p95_seconds > 0
    error_message = "freshness_p95_seconds must be positive."
  }
}

variable "monthly_budget_usd" {
  description = "Budget of a month in US dollars, told of at 80 %, when it is expected to be passed and when it is. null: none."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null ? true : var.monthly_budget_usd > 0
    error_message = "monthly_budget_usd must be positive, or null."
  }
}

variable "budget_tag" {
  description = "Cost allocation tag that picks what the budget counts; it must be activated in Billing first. null: the whole account."
  type        = object({ key = string, value = string })
  default     = null
}

variable "clock_functions" {
  description = "Keys of functions that a schedule calls every five minutes: one that is not called for a quarter of an hour has an alarm. Those that are not among functions yet are passed over."
  type        = set(string)
  default     = ["sweep"]
}
