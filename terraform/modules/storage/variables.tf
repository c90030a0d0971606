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
  description = "Customer managed key that encrypts the objects, with a bucket key. Null: S3's own keys."
  type        = string
  default     = null
}

variable "blobs_bucket_name" {
  description = "Name of the bucket for contents (store/raw/) and packs of chunks and vectors (store/packs/)."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.blobs_bucket_name))
    error_message = "A bucket's name is 3 to 63 lower case letters, digits or hyphens."
  }
}

variable "landing_bucket_name" {
  description = "Name of the bucket that takes files in under incoming/."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.landing_bucket_name))
    error_message = "A bucket's name is 3 to 63 lower case letters, digits or hyphens."
  }
}

variable "intake_queue_arn" {
  description = "ARN of the queue that is told of files put into incoming/ and removed from processed/. Its policy must let the landing bucket send before this is applied."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroying removes buckets that hold objects."
  type        = bool
  default     = false
}

variable "raw_transitions" {
  description = "When contents move to a colder class. None that must be restored before it can be read: the product reads at once."
  type = list(object({
    days          = number
    storage_class = string
  }))
  default = [
    { days = 30, storage_class = "STANDARD_IA" },
    { days = 90, storage_class = "GLACIER_IR" },
  ]

  validation {
    condition     = alltrue([for transition in var.raw_transitions : contains(["STANDARD_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], transition.storage_class)])
    error_message = "Contents may move to STANDARD_IA, INTELLIGENT_TIERING or GLACIER_IR: what lies in other classes must be restored for hours before it can be read, or is kept once only."
  }

  validation {
    condition     = alltrue([for transition in var.raw_transitions : transition.storage_class != "STANDARD_IA" || transition.days >= 30])
    error_message = "S3 moves nothing to STANDARD_IA before 30 days."
  }
}

variable "raw_transition_minimum_bytes" {
  description = "Contents smaller than this stay where they are, beyond the 128 KiB (131072) below which S3 moves nothing. Null: those only."
  type        = number
  default     = null

  validation {
    condition     = var.raw_transition_minimum_bytes == null ? true : var.raw_transition_minimum_bytes > 131072
    error_message = "Give more than 128 KiB (131072): below it S3 moves nothing anyway."
  }
}

variable "noncurrent_days" {
  description = "Days for which an object that was replaced or removed can be brought back."
  type        = number
  default     = 7

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "Give a whole number of days, at least 1."
  }
}

variable "abort_multipart_days" {
  description = "Days after which an upload that was never finished is removed."
  type        = number
  default     = 3

  validation {
    condition     = var.abort_multipart_days >= 1 && floor(var.abort_multipart_days) == var.abort_multipart_days
    error_message = "Give a whole number of days, at least 1."
  }
}

variable "processed_expiration_days" {
  description = "Days after which a file that was taken in is removed from processed/. Its document stays: only a removal by somebody deletes it. Null: files stay."
  type        = number
  default     = null

  validation {
    condition     = var.processed_expiration_days == null ? true : var.processed_expiration_days >= 1
    error_message = "Give at least 1 day, or null."
  }
}

variable "failed_expiration_days" {
  description = "Days after which a file that could not be taken in is removed from failed/, with its reason. Null: files stay."
  type        = number
  default     = null

  validation {
    condition     = var.failed_expiration_days == null ? true : var.failed_expiration_days >= 1
    error_message = "Give at least 1 day, or null."
  }
}

variable "access_log_bucket_name" {
  description = "Name of a bucket to make for the access logs of both. Null: no access logs."
  type        = string
  default     = null
}

variable "access_log_days" {
  description = "Days for which access logs are kept."
  type        = number
  default     = 90

  validation {
    condition     = var.access_log_days >= 1
    error_message = "Keep access logs for at least a day."
  }
}
