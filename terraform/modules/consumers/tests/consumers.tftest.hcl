mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mocked" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:mocked" }
  }
  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-central-1:123456789012:rule/mocked" }
  }
}

variables {
  name = "bloomweaver-dev"
  data = {
    queues = {
      for one in ["create", "update", "delete", "intake", "dead_letter", "intake_dead_letter"] :
      one => { name = one, arn = "arn:aws:sqs:eu-central-1:123456789012:${one}", url = "https://sqs/${one}" }
    }
    change_queues = {
      for one in ["default", "large"] :
      one => { name = "change-${one}", arn = "arn:aws:sqs:eu-central-1:123456789012:change-${one}", url = "https://sqs/change-${one}" }
    }
    table   = { name = "rows", arn = "arn:aws:dynamodb:eu-central-1:123456789012:table/rows" }
    blobs   = { bucket = "blobs", arn = "arn:aws:s3:::blobs", prefix = "store" }
    landing = { bucket = "landing", arn = "arn:aws:s3:::landing" }
    secret_arns = {
      for one in ["pinecone", "webhook", "operator"] : one => "arn:aws:secretsmanager:eu-central-1:123456789012:secret:${one}-abc"
    }
  }
  settings = { BLOOMWEAVER_QUEUE_URL = "sqs:" }
  packages = {
    create = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:create" }
    update = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:update" }
    delete = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:delete" }
    intake = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:intake" }
    sweep  = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:sweep" }
    scrub  = { image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:scrub" }
  }
}

run "messages_come_from_their_queues_and_go_back_one_by_one" {
  command = apply

  assert {
    condition     = output.images == { for one in ["create", "update", "delete", "intake", "sweep", "scrub"] : one => "123456789012.dkr.ecr.eu-central-1.amazonaws.com/functions@sha256:${one}" }
    error_message = "each function is deployed by itself, and runs its own image"
  }

  assert {
    condition     = { for key, one in aws_lambda_event_source_mapping.this : key => one.event_source_arn } == { for one in ["create", "update", "delete", "intake"] : one => "arn:aws:sqs:eu-central-1:123456789012:${one}" }
    error_message = "each function takes the messages of the queue of its name"
  }
  assert {
    condition     = alltrue([for one in aws_lambda_event_source_mapping.this : one.function_response_types == toset(["ReportBatchItemFailures"])])
    error_message = "without it one failure brings the whole batch back, and what it answers is ignored"
  }
  assert {
    condition     = alltrue([for one in aws_lambda_event_source_mapping.this : one.scaling_config[0].maximum_concurrency >= 2])
    error_message = "Lambda takes no maximum concurrency below 2"
  }
}

run "each_function_has_its_handler_and_its_limits" {
  command = apply

  assert {
    condition     = { for key, one in output.functions : key => one.name } == { for one in ["create", "update", "delete", "intake", "sweep", "scrub"] : one => "bloomweaver-dev-${one}" }
    error_message = "six functions, named after what they do"
  }
  assert {
    condition     = local.functions["intake"].handler == "webhook.lambda_entry.intake" && alltrue([for one in ["create", "update", "delete", "sweep", "scrub"] : local.functions[one].handler == "workers.lambda_entry.${one}"])
    error_message = "handlers are those of docs/aws.md"
  }
  assert {
    condition     = { for key, one in module.function : key => one.function.reserved_concurrency if one.function.reserved_concurrency != null } == { sweep = 1, scrub = 1 }
    error_message = "a sweep and a scrub run one at a time; nothing else is reserved"
  }
  assert {
    condition     = alltrue([for one in ["create", "update", "delete", "intake"] : module.function[one].function.timeout_seconds < var.visibility_timeout_seconds])
    error_message = "a function ends before its queue shows its messages again"
  }
  assert {
    condition     = module.function["create"].function.environment["BLOOMWEAVER_SECRET_IDS"] == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:pinecone-abc" && module.function["intake"].function.environment["BLOOMWEAVER_SECRET_IDS"] == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:webhook-abc"
    error_message = "who writes the index reads its key, and the intake does not"
  }
}

run "a_new_version_of_secrets_starts_those_that_read_them" {
  command = apply
  variables {
    secrets         = { create = ["pinecone"], update = ["pinecone"], delete = ["pinecone"], sweep = ["pinecone"], scrub = ["pinecone"], intake = [] }
    secrets_version = "2"
  }

  assert {
    condition = { for key, one in module.function : key => lookup(one.function.environment, "BLOOMWEAVER_SECRETS_VERSION", "none") } == {
      create = "2", update = "2", delete = "2", sweep = "2", scrub = "2", intake = "none"
    }
    error_message = "a function that reads secrets has to start anew to read them again, and no other"
  }
}

run "schedules_ask_for_what_nobody_sends" {
  command = apply

  assert {
    condition = { for key, one in aws_cloudwatch_event_rule.this : key => one.schedule_expression } == {
      "sweep-rows"     = "rate(5 minutes)"
      "sweep-blobs"    = "rate(1 hour)"
      "scrub"          = "cron(0 2 * * ? *)"
      "intake-listing" = "rate(15 minutes)"
    }
    error_message = "rows every five minutes, blobs hourly, a scrub at 02:00, the landing zone every quarter of an hour"
  }
  assert {
    condition     = aws_cloudwatch_event_target.this["sweep-blobs"].input == "{\"blobs\":true}" && aws_cloudwatch_event_target.this["intake-listing"].input == "{\"listing\":true}" && aws_cloudwatch_event_target.this["sweep-rows"].input == null
    error_message = "the inputs say which of a function's tasks is meant"
  }
  assert {
    condition     = alltrue([for one in aws_lambda_permission.schedule : one.principal == "events.amazonaws.com" && one.source_arn == "arn:aws:events:eu-central-1:123456789012:rule/mocked"])
    error_message = "only these rules may call the functions"
  }
  assert {
    condition     = toset(keys(aws_lambda_function_event_invoke_config.this)) == toset(["sweep", "scrub", "intake"]) && alltrue([for one in aws_lambda_function_event_invoke_config.this : one.maximum_retry_attempts == 0])
    error_message = "a failed schedule is not tried again: the next one comes"
  }
}

run "each_role_may_do_what_docs_aws_says_and_no_more" {
  command = apply

  assert {
    condition = jsonencode({
      for key, one in module.function : key => {
        for statement in jsondecode(one.policy).Statement : statement.Sid => sort(statement.Action)
        if !contains(["WriteLog", "ReadSecrets", "LookAtQueues", "KeepRows", "ListBlobs"], statement.Sid)
      }
      }) == jsonencode({
      create = {
        WorkQueue       = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
        SendMessages    = ["sqs:SendMessage"]
        KeepBlobs       = ["s3:GetObject"]
        RemoveTornPacks = ["s3:DeleteObject"]
      }
      update = {
        WorkQueue       = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
        SendMessages    = ["sqs:SendMessage"]
        KeepBlobs       = ["s3:GetObject"]
        RemoveTornPacks = ["s3:DeleteObject"]
      }
      delete = {
        WorkQueue    = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
        SendMessages = ["sqs:SendMessage"]
      }
      intake = {
        WorkQueue       = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
        SendMessages    = ["sqs:SendMessage"]
        KeepBlobs       = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        FindIntakeQueue = ["sqs:GetQueueUrl"]
        ListLanding     = ["s3:GetBucketVersioning", "s3:ListBucket", "s3:ListBucketVersions"]
        MoveFiles       = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObject", "s3:PutObject"]
      }
      sweep = {
        SendMessages     = ["sqs:SendMessage"]
        KeepBlobs        = ["s3:DeleteObjectVersion"]
        AdoptDeadLetters = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"]
        ListBlobVersions = ["s3:ListBucketVersions"]
      }
      scrub = {
        KeepBlobs = ["s3:GetObject"]
      }
    })
    error_message = "the rights are not those of docs/aws.md"
  }
  assert {
    condition = alltrue([
      for one in ["create", "update", "delete", "intake"] : [
        for statement in jsondecode(module.function[one].policy).Statement : statement.Resource if statement.Sid == "WorkQueue"
      ] == [["arn:aws:sqs:eu-central-1:123456789012:${one}"]]
    ])
    error_message = "each takes messages of its own queue only"
  }
  assert {
    condition = [
      for statement in jsondecode(module.function["create"].policy).Statement : statement.Resource if statement.Sid == "SendMessages"
    ] == [[for one in ["create", "change-default", "change-large", "dead_letter"] : "arn:aws:sqs:eu-central-1:123456789012:${one}"]]
    error_message = "a consumer sends to its own queue, to those of changes and to the dead letters"
  }
  assert {
    condition = [
      for statement in jsondecode(module.function["intake"].policy).Statement : statement.Resource if statement.Sid == "SendMessages"
    ] == [[for one in ["change-default", "change-large", "delete", "intake"] : "arn:aws:sqs:eu-central-1:123456789012:${one}"]]
    error_message = "the intake wakes changes and deletes, and puts back its own messages"
  }
  assert {
    condition = alltrue(flatten([
      for key, one in module.function : [
        for statement in jsondecode(one.policy).Statement : [for resource in statement.Resource : key == "intake" || !strcontains(resource, "landing")]
      ]
    ]))
    error_message = "only the intake reads the landing zone"
  }
}

run "a_small_account_reserves_nothing" {
  command = apply
  variables {
    one_at_a_time = false
  }

  assert {
    condition     = alltrue([for one in module.function : one.function.reserved_concurrency == null])
    error_message = "an account whose limit is 10 cannot reserve any"
  }
}

run "a_function_that_outlives_its_messages_is_refused" {
  command = plan
  variables {
    timeout_seconds = { create = 300, update = 240, delete = 240, intake = 240, sweep = 900, scrub = 900 }
  }
  expect_failures = [aws_lambda_event_source_mapping.this["create"]]
}

run "a_concurrency_that_lambda_does_not_take_is_refused" {
  command = plan
  variables {
    mappings = {
      for one in ["create", "update", "delete", "intake"] : one => { batch_size = 10, window_seconds = 0, maximum_concurrency = 1 }
    }
  }
  expect_failures = [var.mappings]
}

run "a_schedule_of_nobody_is_refused" {
  command = plan
  variables {
    schedules = { "x" = { function = "create", expression = "rate(5 minutes)", input = {} } }
  }
  expect_failures = [var.schedules]
}
