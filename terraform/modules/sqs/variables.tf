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
  description = "Customer managed key that encrypts the messages. Its policy must let s3.amazonaws.com call kms:GenerateDataKey and kms:Decrypt, or no notification reaches the intake queue. Null: the key that SQS keeps for itself."
  type        = string
  default     = null
}

variable "variants" {
  description = "Embedding variants, each with a change queue of its own."
  type        = set(string)
  default     = ["default"]

  validation {
    condition     = contains(var.variants, "default") && alltrue([for variant in var.variants : can(regex("^[a-z0-9][a-z0-9-]{0,30}$", variant))])
    error_message = "The variants must hold \"default\"; each is 1 to 31 lower case letters, digits or hyphens."
  }
}

variable "landing_bucket_arn" {
  description = "ARN of the bucket whose notifications the intake queue takes. Null: nobody but the account's own roles may send there."
  type        = string
  default     = null
}

variable "max_receive_count" {
  description = "Receives after which a message moves to its dead-letter queue. The product tells a poisonous message by this count (BLOOMWEAVER_MAX_RECEIVES): give both the same number."
  type        = number
  default     = 3

  validation {
    condition     = var.max_receive_count >= 1 && var.max_receive_count <= 1000
    error_message = "SQS takes 1 to 1000 receives."
  }
}

variable "visibility_timeout_seconds" {
  description = "Seconds for which a received message is hidden. Longer than the timeout of any function that works the queue, or the message is worked twice."
  type        = number
  default     = 300

  validation {
    condition     = var.visibility_timeout_seconds >= 30 && var.visibility_timeout_seconds <= 43200
    error_message = "The visibility timeout must be 30 seconds to 12 hours."
  }
}

variable "message_retention_seconds" {
  description = "Seconds for which an unread message is kept."
  type        = number
  default     = 1209600

  validation {
    condition     = var.message_retention_seconds >= 86400 && var.message_retention_seconds <= 1209600
    error_message = "The retention must be 1 to 14 days: less than a day loses messages over an outage, and SQS keeps none for longer than 14."
  }
}

variable "redrive_allow_policies" {
  description = "Whether each dead-letter queue says which queues may use it. False for emulators only: moto answers the provider's check of that resource in a way that it waits for ever."
  type        = bool
  default     = true
}

variable "alarm_topic_arns" {
  description = "SNS topics told when an alarm starts and ends."
  type        = list(string)
  default     = []
}

variable "alarm_thresholds" {
  description = "depth: messages waiting in one queue. age_seconds: age of a queue's oldest message. change_age_seconds: the same of change queues, whose workers must start first and work off a bulk load."
  type = object({
    depth              = optional(number, 10000)
    age_seconds        = optional(number, 900)
    change_age_seconds = optional(number, 3600)
  })
  default = {}

  validation {
    condition     = alltrue([for threshold in values(var.alarm_thresholds) : threshold > 0])
    error_message = "Every threshold must be above 0: a queue at work is never empty for long."
  }
}
