# The numbers of this installation; what is yours is in installation.auto.tfvars.
name = "bloomweaver-dev"

variants = {
  default = {
    embedder_url   = "fastembed:all-MiniLM-L6-v2-int8"
    profile        = "profile:{\"model\":\"all-MiniLM-L6-v2-int8\",\"fingerprint\":\"8199be6f699a395f\",\"dimension\":384,\"max_tokens\":512,\"query_prefix\":\"\",\"document_prefix\":\"\"}"
    instance_types = ["c7i.large", "c7a.large", "c6i.large", "c6a.large"]
    max_size       = 2
    # A c7i.large on spot in us-east-1, for the dashboard's estimate: look yours up.
    instance_hour_usd = 0.036
  }
}

# The packaged model is in the functions' image: the webhook searches by itself.
webhook_settings = { BLOOMWEAVER_EMBEDDER_URL = "fastembed:all-MiniLM-L6-v2-int8" }

network = {
  cidr                    = "10.40.0.0/16"
  zones                   = ["a"]
  flow_log_retention_days = 7
}

# A new account runs 10 functions at once, of which none can be reserved. Messages take 8 of them at
# most, so that two are left for requests and schedules.
one_at_a_time = false
mappings = {
  create = { batch_size = 10, window_seconds = 0, maximum_concurrency = 2 }
  update = { batch_size = 10, window_seconds = 0, maximum_concurrency = 2 }
  delete = { batch_size = 10, window_seconds = 0, maximum_concurrency = 2 }
  intake = { batch_size = 10, window_seconds = 0, maximum_concurrency = 2 }
}

protection = {
  deletion               = false
  point_in_time_recovery = false
  keep_contents          = false
  secret_recovery_days   = 0
}

log_retention_days = 7
monthly_budget_usd = 75
