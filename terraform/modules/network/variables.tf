variable "name" {
  description = "Prefix of every name, such as bloomweaver-dev."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,29}[a-z0-9]$", var.name))
    error_message = "Give 2 to 31 lower-case letters, digits and hyphens, the first a letter, the last no hyphen."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}

variable "kms_key_arn" {
  description = "Customer key of the flow log; its policy must let CloudWatch Logs use it. null: a key that AWS owns."
  type        = string
  default     = null
}

variable "cidr" {
  description = "Addresses of the VPC, /16 to /24. Each subnet takes a sixteenth."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 24, false)
    error_message = "Give an IPv4 range of /16 to /24, such as 10.20.0.0/16."
  }
}

variable "availability_zones" {
  description = "Availability zones, a private subnet each. More zones have more spot capacity, and cost an interface endpoint more each."
  type        = list(string)

  validation {
    condition     = length(var.availability_zones) >= 1 && length(var.availability_zones) <= 8 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "Give 1 to 8 different availability zones."
  }
}

variable "interface_endpoints" {
  description = <<-EOT
    Services that instances reach by an interface endpoint, about 7.3 USD a month each and zone, work or not. What is not
    here needs `nat`. Add ssm and ssmmessages for Session Manager, monitoring for metrics. null: the five that a worker
    needs (autoscaling, ecr.api, ecr.dkr, logs, sqs), or none with `nat`. Empty: none, and with `nat` off no worker can start.
  EOT
  type        = set(string)
  default     = null

  validation {
    condition = length(setsubtract(coalesce(var.interface_endpoints, []), [
      "autoscaling", "ec2messages", "ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "secretsmanager", "sqs", "ssm", "ssmmessages", "sts",
    ])) == 0
    error_message = "Known are autoscaling, ec2messages, ecr.api, ecr.dkr, kms, logs, monitoring, secretsmanager, sqs, ssm, ssmmessages and sts."
  }
}

variable "nat" {
  description = "Whether private subnets reach the internet, by one NAT gateway (about 33 USD a month and 0.045 USD/GB) in a public subnet. Interface endpoints are made beside it only where interface_endpoints names them. It is needed where an index or a database is outside AWS."
  type        = bool
  default     = false
}

variable "nat_in_each_zone" {
  description = "A NAT gateway in each zone instead of one for all: no zone depends on another, at that many times the cost."
  type        = bool
  default     = false
}

variable "flow_log_retention_days" {
  description = "How long the flow log is kept."
  type        = number
  default     = 30
}

variable "permissions_boundary_arn" {
  description = "Policy that bounds every role made here, for accounts that let no role be made without one; null: none."
  type        = string
  default     = null
}
