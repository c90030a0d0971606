# The numbers of this installation; what is yours is in installation.auto.tfvars.
name = "bloomweaver-prod"

variants = {
  default = {
    embedder_url         = "fastembed:all-MiniLM-L6-v2-int8"
    profile              = "profile:{\"model\":\"all-MiniLM-L6-v2-int8\",\"fingerprint\":\"8199be6f699a395f\",\"dimension\":384,\"max_tokens\":512,\"query_prefix\":\"\",\"document_prefix\":\"\"}"
    instance_types       = ["c7i.xlarge", "c7a.xlarge", "c6i.xlarge", "c6a.xlarge"]
    max_size             = 20
    on_demand_base       = 1
    on_demand_percentage = 25
    # A c7i.xlarge on spot in us-east-1, for the dashboard's estimate: look yours up. The first one is
    # on demand and costs more.
    instance_hour_usd = 0.071
  }
}

# The packaged model is in the functions' image: the webhook searches by itself.
webhook_settings = { BLOOMWEAVER_EMBEDDER_URL = "fastembed:all-MiniLM-L6-v2-int8" }

network = {
  cidr                    = "10.41.0.0/16"
  zones                   = ["a", "b", "c"]
  flow_log_retention_days = 90
}

protection = {
  deletion               = true
  point_in_time_recovery = true
  keep_contents          = true
  secret_recovery_days   = 30
}

log_retention_days = 90
monthly_budget_usd = 500
