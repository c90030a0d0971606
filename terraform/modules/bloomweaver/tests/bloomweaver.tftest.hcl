mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "us_east_1"
  source = "./tests/mocks"
}

variables {
  name          = "bloomweaver-test"
  bucket_suffix = "tests"
  index_url     = "pinecone:documents"
  network       = { availability_zones = ["eu-central-1a", "eu-central-1b"] }
  variants = {
    default = {
      embedder_url   = "fastembed:small"
      profile        = "profile:{\"model\":\"small\"}"
      instance_types = ["c7i.large"]
      max_size       = 2
    }
    large = {
      namespaces     = ["kb-*"]
      embedder_url   = "fastembed:/models/large"
      profile        = "profile:{\"model\":\"large\"}"
      repository     = "worker-large"
      instance_types = ["c7i.4xlarge"]
      max_size       = 1
    }
  }
}

run "without_images_there_is_what_they_are_pushed_to" {
  command = apply

  assert {
    condition     = output.api_url == null && output.functions == {} && output.groups == {}
    error_message = "Without an image nothing can run, and a function without one cannot be made."
  }
  assert {
    condition     = toset(keys(output.repository_urls)) == toset(["functions", "worker-cpu", "worker-large"])
    error_message = "Each image needs its repository before it can be pushed."
  }
  assert {
    condition     = toset(keys(output.secret_arns)) == toset(["pinecone", "webhook", "operator"])
    error_message = "Each secret needs to be there before its value can be put."
  }
}

run "an_image_makes_what_runs_it" {
  command = apply

  variables {
    images = {
      functions  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      worker-cpu = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/worker-cpu@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    }
  }

  assert {
    condition     = toset(keys(output.functions)) == toset(["webhook", "create", "update", "delete", "intake", "sweep", "scrub"])
    error_message = "The functions' image makes all functions."
  }
  assert {
    condition     = toset(keys(output.groups)) == toset(["default"])
    error_message = "A fleet follows with its own image: large has none yet."
  }
  assert {
    condition     = jsondecode(output.settings["BLOOMWEAVER_EMBEDDING_VARIANTS"])["large"].embedder_url == "profile:{\"model\":\"large\"}"
    error_message = "Roles without a model are given its profile."
  }
  assert {
    condition     = jsondecode(output.worker_settings["BLOOMWEAVER_EMBEDDING_VARIANTS"])["large"].embedder_url == "fastembed:/models/large"
    error_message = "Workers are given the model."
  }
  assert {
    condition     = !contains(keys(jsondecode(output.settings["BLOOMWEAVER_EMBEDDING_VARIANTS"])), "default")
    error_message = "The default variant is that of the settings themselves."
  }
  assert {
    condition     = output.settings["BLOOMWEAVER_AUDIT_URL"] == "none:"
    error_message = "Without a database no audit trail is kept, and the settings say so."
  }
}

run "what_is_deployed_by_itself_runs_its_own_image" {
  command = apply

  variables {
    images = {
      functions            = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      "functions/webhook"  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:1111111111111111111111111111111111111111111111111111111111111111"
      "functions/clock"    = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:2222222222222222222222222222222222222222222222222222222222222222"
      "worker-cpu/default" = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/worker-cpu@sha256:3333333333333333333333333333333333333333333333333333333333333333"
      worker-large         = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/worker-large@sha256:4444444444444444444444444444444444444444444444444444444444444444"
    }
  }

  assert {
    condition     = module.webhook[0].image == var.images["functions/webhook"]
    error_message = "What the webhook's deployment remembered must be what Terraform gives the webhook."
  }
  assert {
    condition = module.consumers[0].images == {
      create = var.images["functions"], update = var.images["functions"], delete = var.images["functions"],
      intake = var.images["functions"], sweep = var.images["functions/clock"], scrub = var.images["functions/clock"]
    }
    error_message = "An image that one function passed with must not come to the others, which never tried it."
  }
  assert {
    condition     = { for name, fleet in local.fleets : name => fleet.image_uri } == { default = var.images["worker-cpu/default"], large = var.images["worker-large"] }
    error_message = "A fleet runs its own image, or else its repository's."
  }
}

run "functions_of_which_one_has_no_image_are_not_made" {
  command = plan

  variables {
    images = { for one in ["webhook", "create", "update", "delete", "intake"] : "functions/${one}" => "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
  }

  assert {
    condition     = local.function_count == 0
    error_message = "The sweeper and the scrub have no image yet: the others wait for it."
  }
}

run "without_a_customer_key_none_is_made" {
  command = plan

  assert {
    condition     = length(module.key) == 0 && output.kms_key_arn == null
    error_message = "A key costs a dollar a month: none unasked."
  }
}

# The plan that makes the key does not know it yet, and has to know all the same what follows from it.
run "a_customer_key_is_made_in_one_plan_with_what_it_encrypts" {
  command = plan

  variables {
    customer_key = true
    images = {
      functions  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      worker-cpu = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/worker-cpu@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    }
  }

  assert {
    condition     = length(module.key) == 1
    error_message = "It was asked for."
  }
}

run "what_encrypts_with_the_customer_key_is_told" {
  command = apply

  variables {
    customer_key = true
  }

  assert {
    condition     = output.kms_key_arn == module.key[0].arn && strcontains(output.kms_key_arn, ":key/")
    error_message = "The key that is made is the one that is used."
  }
  assert {
    condition     = output.settings["BLOOMWEAVER_BLOBS_KMS_KEY_ID"] == output.kms_key_arn
    error_message = "Roles ask S3 for that key by its name."
  }
}

run "two_keys_are_refused" {
  command = plan

  variables {
    customer_key = true
    kms_key_arn  = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  expect_failures = [output.kms_key_arn]
}

run "the_console_may_call_the_api" {
  command = apply

  variables {
    frontend                     = {}
    webhook_reserved_concurrency = 3
    images                       = { functions = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-test/functions@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
  }

  assert {
    condition     = jsondecode(local.webhook_settings["BLOOMWEAVER_CORS_ORIGINS"]) == [output.frontend.url]
    error_message = "A browser lets the console's pages call the API only if the API says so."
  }
  assert {
    condition     = contains(keys(var.throttling), "PUT /v1/namespaces/{namespace}/{proxy+}")
    error_message = "Documents that are put have limits of their own, as the module webhook has them."
  }
}

run "origins_of_ones_own_win" {
  command = apply

  variables {
    frontend         = {}
    webhook_settings = { BLOOMWEAVER_CORS_ORIGINS = "[\"https://mine.example\"]" }
  }

  assert {
    condition     = local.webhook_settings["BLOOMWEAVER_CORS_ORIGINS"] == "[\"https://mine.example\"]"
    error_message = "What is set by hand must not be overwritten."
  }
}

run "a_database_tells_from_where_it_is_reached" {
  command = apply

  variables {
    database = {}
    network  = { availability_zones = ["eu-central-1a", "eu-central-1b"], nat = true }
  }

  assert {
    condition     = output.database.security_group_id == aws_security_group.functions[0].id && output.database.subnet_ids == module.network.private_subnet_ids
    error_message = "A user of the database is made from inside the network: one has to know from where."
  }
}

run "a_database_is_refused_where_its_functions_reach_no_index" {
  command = plan

  variables {
    database = {}
  }

  expect_failures = [output.database]
}

run "a_variant_without_namespaces_is_refused" {
  command = plan

  variables {
    variants = {
      default = { embedder_url = "fastembed:a", profile = "profile:{}", instance_types = ["c7i.large"], max_size = 1 }
      other   = { embedder_url = "fastembed:b", profile = "profile:{}", instance_types = ["c7i.large"], max_size = 1 }
    }
  }

  expect_failures = [var.variants]
}
