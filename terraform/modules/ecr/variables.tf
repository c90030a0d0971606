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
  description = "Customer managed key that encrypts the images. Null: the key that AWS manages for ECR."
  type        = string
  default     = null
}

variable "repositories" {
  description = "Names of the repositories, after the prefix NAME/."
  type        = set(string)
  default     = ["functions", "worker-cpu", "worker-gpu"]

  validation {
    condition     = length(var.repositories) > 0 && alltrue([for repository in var.repositories : can(regex("^[a-z0-9]+(?:[._-][a-z0-9]+)*$", repository))])
    error_message = "Give at least one repository; names are lower case letters and digits, with single hyphens, dots or underscores between them."
  }
}

variable "lambda_repositories" {
  description = "Those of the repositories whose images Lambda runs, as functions named NAME-…."
  type        = set(string)
  default     = ["functions"]
}

variable "kept_images" {
  description = "Images with a tag kept in each repository, the latest pushed. What runs must be among them, or an instance that starts finds no image: keep as many as you may want to roll back to."
  type        = number
  default     = 30

  validation {
    condition     = var.kept_images >= 2 && floor(var.kept_images) == var.kept_images
    error_message = "Keep at least 2 images: the one that runs and the one to roll back to."
  }
}

variable "untagged_days" {
  description = "Days after which an image without a tag (such as one of a push that broke off) is removed."
  type        = number
  default     = 7

  validation {
    condition     = var.untagged_days >= 1 && floor(var.untagged_days) == var.untagged_days
    error_message = "Give a whole number of days, at least 1."
  }
}

variable "force_delete" {
  description = "Whether destroying removes repositories that hold images."
  type        = bool
  default     = false
}
