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
  description = "Key that encrypts the files. Its policy must let cloudfront.amazonaws.com decrypt. null: S3's own (SSE-S3)."
  type        = string
  default     = null
}

variable "bucket_name" {
  description = "Name of the bucket of files, unique in all of AWS. null: <name>-frontend-<account>."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether destroying removes the bucket with the files that are in it."
  type        = bool
  default     = false
}

variable "domain" {
  description = "Host name such as console.example.com. null: the one that CloudFront gives."
  type        = string
  default     = null

  validation {
    condition     = var.domain == null ? true : can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain must be a host name in lower case, or null."
  }
}

variable "zone_id" {
  description = "Route 53 hosted zone of the domain; the certificate's validation and the addresses are written there. Needed with domain."
  type        = string
  default     = null
}

variable "single_page" {
  description = "Whether a path without a file is answered with /index.html and 200, as applications need that route in the browser; otherwise with /404.html and 404."
  type        = bool
  default     = true
}

variable "api_origins" {
  description = "Origins that pages may call, such as https://api.example.com; they go into the content security policy."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for origin in var.api_origins : can(regex("^https://[^/;\\s]+$", origin))])
    error_message = "api_origins must be https:// and a host, with no path."
  }
}

variable "waf" {
  description = "Whether a web ACL stands before the files (some 9 US dollars a month): AWS's rules (common, known bad inputs, IP reputation), and a rate limit."
  type        = bool
  default     = true
}

variable "rate_limit" {
  description = "Requests of one address in five minutes above which it is blocked."
  type        = number
  default     = 2000

  validation {
    condition     = var.rate_limit >= 10 && var.rate_limit <= 2000000000
    error_message = "rate_limit must lie between 10 and 2,000,000,000."
  }
}

variable "access_log_bucket_domain_name" {
  description = "Bucket (its regional domain name, with ACLs allowed for log delivery) for CloudFront's access logs. null: none are kept."
  type        = string
  default     = null
}

variable "price_class" {
  description = "Where CloudFront answers from: PriceClass_100 (North America, Europe), PriceClass_200 or PriceClass_All."
  type        = string
  default     = "PriceClass_100"

  validation {
    condition     = contains(["PriceClass_100", "PriceClass_200", "PriceClass_All"], var.price_class)
    error_message = "price_class must be PriceClass_100, PriceClass_200 or PriceClass_All."
  }
}

variable "noncurrent_days" {
  description = "Days that replaced files are kept, for going back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number of at least 1."
  }
}
