variable "name" {
  description = "Prefix of every name, such as bloomweaver-dev."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,29}[a-z0-9]$", var.name))
    error_message = "Give 2 to 31 lower-case letters, digits and hyphens, the first a letter, the last no hyphen."
  }
}

variable "tags" {
  description = "Tags of every resource and instance. Instances show them in their metadata, which takes no spaces or slashes in keys."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : can(regex("^[A-Za-z0-9+=.,_:@-]+$", key))])
    error_message = "Instance metadata shows tags only where keys are letters, digits and + - = . , _ : @."
  }
}

variable "kms_key_arn" {
  description = "Customer key of volumes, logs and of the data the workers open. null: keys that AWS owns or manages. Its policy must let the service role of Auto Scaling and CloudWatch Logs use it."
  type        = string
  default     = null
}

variable "data" {
  description = "What the workers open: queues, table, buckets and secrets, as the other modules put them out."
  type = object({
    queues        = map(object({ name = string, arn = string, url = string }))
    change_queues = map(object({ name = string, arn = string, url = string }))
    table         = object({ name = string, arn = string })
    blobs         = object({ bucket = string, arn = string, prefix = string })
    landing       = object({ bucket = string, arn = string })
    secret_arns   = map(string)
  })

  validation {
    condition     = alltrue([for name in ["create", "update", "delete", "dead_letter"] : contains(keys(var.data.queues), name)])
    error_message = "data.queues needs create, update, delete and dead_letter: embedding workers send to them."
  }
}

variable "settings" {
  description = "BLOOMWEAVER_* variables that all roles share. Never put a secret here: user data shows them."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for value in values(var.settings) : !strcontains(value, "\n")])
    error_message = "A variable of one line each: Docker's environment file has no line breaks in values."
  }
}

variable "subnet_ids" {
  description = "Private subnets, best one in each availability zone: more spot capacity to choose from."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "Give at least one subnet."
  }
}

variable "security_group_ids" {
  description = "Security groups of the instances. The network module's has no rule for inbound traffic."
  type        = list(string)

  validation {
    condition     = length(var.security_group_ids) > 0
    error_message = "Give a security group: without one the VPC's default group would be taken."
  }
}

variable "variants" {
  description = <<-EOT
    A fleet for each embedding variant, by the variant's name; "default" works the change queue of no variant.
    image_uri: the image of the worker, best by digest. instance_types: in the order of preference, empty for those of
    the kind. max_size: workers at most, null for the policy's. min_size: workers kept without work. on_demand_base,
    on_demand_percentage: instances that are not spot. gpu: AMI and device. ami_id: pins the AMI, which lets a failed
    instance refresh roll back by itself; null for the newest ECS-optimized Amazon Linux 2023. embedder_url: the model,
    null for what the settings say, and where that is a profile, for what the image holds. settings: variables of this fleet alone.
  EOT
  type = map(object({
    image_uri            = string
    instance_types       = optional(list(string), [])
    max_size             = optional(number)
    min_size             = optional(number)
    on_demand_base       = optional(number, 0)
    on_demand_percentage = optional(number, 0)
    gpu                  = optional(bool, false)
    ami_id               = optional(string)
    embedder_url         = optional(string)
    volume_gb            = optional(number)
    settings             = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for key in keys(var.variants) : can(regex("^[a-z][a-z0-9-]{0,23}$", key))])
    error_message = "Names of variants are 1 to 24 lower-case letters, digits and hyphens, the first a letter."
  }

  validation {
    condition     = alltrue([for variant in values(var.variants) : try(variant.max_size >= 1 && variant.max_size <= 100, variant.max_size == null)])
    error_message = "max_size is 1 to 100 workers."
  }

  validation {
    condition     = alltrue([for variant in values(var.variants) : try(variant.min_size >= 0, variant.min_size == null)])
    error_message = "min_size is 0 or more, and no more than max_size."
  }

  validation {
    condition = alltrue([
      for variant in values(var.variants) :
      variant.on_demand_base >= 0 && variant.on_demand_percentage >= 0 && variant.on_demand_percentage <= 100
    ])
    error_message = "on_demand_base is 0 or more, on_demand_percentage 0 to 100."
  }

  validation {
    condition     = alltrue([for variant in values(var.variants) : try(startswith(variant.ami_id, "ami-"), variant.ami_id == null)])
    error_message = "ami_id is the id of an image (ami-…)."
  }

  validation {
    condition = alltrue([
      for variant in values(var.variants) : alltrue([for value in values(variant.settings) : !strcontains(value, "\n")])
    ])
    error_message = "A variable of one line each: Docker's environment file has no line breaks in values."
  }
}

variable "secret_names" {
  description = "Keys of data.secret_arns that the workers may read and take variables from. Embedding workers need none: they never open the index."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setsubtract(var.secret_names, keys(var.data.secret_arns))) == 0
    error_message = "Each must be a key of data.secret_arns."
  }
}

variable "drain_timeout_seconds" {
  description = "How long a worker may finish what it has in hand when it is stopped. A spot notice comes 120 s before, of which the worker keeps 10."
  type        = number
  default     = 60

  validation {
    condition     = var.drain_timeout_seconds >= 1 && var.drain_timeout_seconds <= 110
    error_message = "1 to 110 s: an interrupted spot instance has no more."
  }
}

variable "scratch_mb" {
  description = "Size at most of /tmp, in memory and all that a worker can write: scratch files, and models that its image does not hold."
  type        = number
  default     = 2048

  validation {
    condition     = var.scratch_mb >= 64
    error_message = "64 MB at least."
  }
}

variable "log_retention_days" {
  description = "How long the workers' logs are kept."
  type        = number
  default     = 30
}

variable "session_manager" {
  description = "Whether people may open a shell on an instance by Session Manager. Needs the network module's endpoints ssm and ssmmessages, or NAT."
  type        = bool
  default     = false
}

variable "alarm_topic_arns" {
  description = "SNS topics told when work waits and no worker comes up."
  type        = list(string)
  default     = []
}

variable "group_metrics" {
  description = "Leave it on: without its group's metrics no alarm scales. Off is for emulators that lack EnableMetricsCollection."
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
