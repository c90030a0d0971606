# Typed as in modules/bloomweaver, which also checks them.

variable "region" {
  description = "Where everything lies."
  type        = string
}

variable "tags" {
  description = "More tags, put on everything by the provider."
  type        = map(string)
  default     = {}
}

variable "name" {
  description = "Prefix of everything that is made: lower case letters, digits and hyphens."
  type        = string
}

variable "kms_key_arn" {
  description = "A key of your own, made elsewhere, whose policy holds what modules/key/README.md lists. null: AWS's own keys, or the one of customer_key."
  type        = string
  default     = null
}

variable "customer_key" {
  description = "Make a customer managed key that encrypts queues, table, buckets, images, secrets, volumes and logs; decide before the first apply (docs/deploy.md). false: AWS's own keys, or kms_key_arn."
  type        = bool
  default     = false
}

variable "permissions_boundary_arn" {
  description = "Policy that bounds every role made here, for accounts that let no role be made without one; null: none."
  type        = string
  default     = null
}

variable "bucket_suffix" {
  description = "Ends the names of the buckets, which are one name space for everybody on AWS: an account id, say."
  type        = string
}

variable "index_url" {
  description = "Where records go, as BLOOMWEAVER_INDEX_URL: pinecone:NAME or pinecone:https://HOST, or a Qdrant or Chroma server."
  type        = string
}

variable "images" {
  description = "Images by repository (functions, worker-cpu, worker-gpu), by digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:…. One of a single function (functions/webhook, create, update, delete, intake; functions/clock: sweep and scrub) or fleet (worker-cpu/VARIANT) wins over that of its repository. What has no image is not made yet: the functions when one of them lacks it."
  type        = map(string)
  default     = {}
}

variable "functions_zip" {
  description = "A zip file with the functions, in the place of the image `functions`."
  type        = string
  default     = null
}

variable "variants" {
  description = "Embedding models, each with a queue and a fleet of its own. `default` takes what no other one's namespaces match. embedder_url: what workers load; profile: what `bloomweaver profile` prints of it, for all that hold no model; repository: whose image its workers run."
  type = map(object({
    namespaces           = optional(list(string), [])
    embedder_url         = string
    profile              = string
    repository           = optional(string, "worker-cpu")
    gpu                  = optional(bool, false)
    instance_types       = list(string)
    max_size             = number
    on_demand_base       = optional(number, 0)
    on_demand_percentage = optional(number, 0)
    instance_hour_usd    = optional(number)
  }))
}

variable "settings" {
  description = "More BLOOMWEAVER_* variables, for every role; they win over those that are computed here."
  type        = map(string)
  default     = {}
}

variable "webhook_settings" {
  description = "BLOOMWEAVER_* variables of the webhook alone. With {BLOOMWEAVER_EMBEDDER_URL = \"fastembed:…\"} it searches, if its package holds that model; else it accepts only."
  type        = map(string)
  default     = {}
}

variable "webhook_memory_mb" {
  description = "Memory of the webhook's function: 512 to accept, 1024 to search."
  type        = number
  default     = 1024
}

variable "webhook_reserved_concurrency" {
  description = "Requests at once at most, taken from the account's own limit, so that no consumer takes them away; null: what the account has left."
  type        = number
  default     = null
}

variable "secrets_version" {
  description = "Change it when a secret has a new value: what reads secrets starts anew then, and reads them again."
  type        = string
  default     = "1"
}

variable "throttling" {
  description = "Requests a second, and at once on top, by route of the API: $default and METHOD /path."
  type        = map(object({ rate = number, burst = number }))
  default = {
    "$default"                                = { rate = 200, burst = 400 }
    "POST /v1/changes"                        = { rate = 100, burst = 200 }
    "POST /v1/sources/{name}"                 = { rate = 100, burst = 200 }
    "POST /v1/namespaces/{namespace}/search"  = { rate = 50, burst = 100 }
    "PUT /v1/namespaces/{namespace}/{proxy+}" = { rate = 100, burst = 200 }
  }
}

variable "mappings" {
  description = "How messages come to the consumers: how many at once, how long Lambda waits for company, how many batches side by side."
  type        = map(object({ batch_size = number, window_seconds = number, maximum_concurrency = number }))
  default = {
    create = { batch_size = 10, window_seconds = 0, maximum_concurrency = 10 }
    update = { batch_size = 10, window_seconds = 0, maximum_concurrency = 10 }
    delete = { batch_size = 10, window_seconds = 0, maximum_concurrency = 5 }
    intake = { batch_size = 10, window_seconds = 0, maximum_concurrency = 5 }
  }
}

variable "one_at_a_time" {
  description = "Reserve a concurrency of one for the sweeper and the scrub each. An account whose limit is 10, as a new one's, cannot: false there."
  type        = bool
  default     = true
}

variable "domain" {
  description = "A name of your own for the API, and the Route53 zone it is in. null: API Gateway's name."
  type = object({
    name    = string
    zone_id = string
  })
  default = null
}

variable "access_log_bucket_name" {
  description = "Name of a bucket to make for the access logs of the buckets with documents. null: no access logs."
  type        = string
  default     = null
}

variable "network" {
  description = "Of the workers. zones: letters of the region's availability zones. nat: a NAT gateway, without which nothing outside AWS can be reached; interface_endpoints: AWS's services that are reached without one, null for those that workers need, or none with nat."
  type = object({
    cidr                    = optional(string, "10.40.0.0/16")
    zones                   = list(string)
    nat                     = optional(bool, false)
    interface_endpoints     = optional(set(string))
    flow_log_retention_days = optional(number, 30)
  })
}

variable "database" {
  description = "An RDS PostgreSQL for the audit trail. null: none."
  type = object({
    instance_class      = optional(string, "db.t4g.micro")
    storage_gb          = optional(number, 20)
    multi_az            = optional(bool, false)
    backup_days         = optional(number, 7)
    deletion_protection = optional(bool, true)
  })
  default = null
}

variable "frontend" {
  description = "The admin console: a bucket behind CloudFront. domain and zone_id: a name of your own. null: none."
  type = object({
    domain  = optional(string)
    zone_id = optional(string)
    waf     = optional(bool, true)
  })
  default = null
}

variable "protection" {
  description = "deletion: the table refuses to be deleted; point_in_time_recovery: it can be put back to any second of 35 days; keep_contents: buckets and repositories that hold something refuse to be destroyed; secret_recovery_days: 0 deletes secrets for good at once."
  type = object({
    deletion               = optional(bool, true)
    point_in_time_recovery = optional(bool, true)
    keep_contents          = optional(bool, true)
    secret_recovery_days   = optional(number, 30)
  })
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
}

variable "alarm_emails" {
  description = "Who is told of alarms and of the budget; each confirms once, by mail."
  type        = list(string)
  default     = []
}

variable "monthly_budget_usd" {
  description = "US dollars a month of which mails tell at 80 % and 100 %: of the whole account, unless budget_tag says of what."
  type        = number
}

variable "budget_tag" {
  description = "Cost allocation tag that picks what the budget counts: {key = \"Installation\", value = \"bloomweaver-dev\"}. It must be activated in Billing first. null: the whole account."
  type        = object({ key = string, value = string })
  default     = null
}

variable "emulated" {
  description = "What emulators of AWS lack is left out with these (terraform/README.md, Gaps). On AWS leave them as they are."
  type = object({
    redrive_allow_policies = optional(bool, true)
  })
  default = {}
}
