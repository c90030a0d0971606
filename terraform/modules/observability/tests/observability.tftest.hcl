mock_provider "aws" {
  override_during = plan

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { id = "us-east-1", name = "us-east-1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:us-east-1:123456789012:bloomweaver-test-alarms" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-east-1:123456789012:key/made", key_id = "made" }
  }
}

variables {
  name   = "bloomweaver-test"
  api_id = "api123"
  functions = {
    webhook = "bloomweaver-test-webhook"
    create  = "bloomweaver-test-create"
  }
  log_group_names = {
    create = "/aws/lambda/bloomweaver-test-create"
    small  = "/bloomweaver-test/workers/small"
  }
  queues = {
    create      = { name = "bloomweaver-test-create", arn = "arn:create", url = "https://create" }
    dead_letter = { name = "bloomweaver-test-dead-letter", arn = "arn:dead", url = "https://dead" }
  }
  change_queues = {
    default = { name = "bloomweaver-test-change", arn = "arn:change", url = "https://change" }
    gpu     = { name = "bloomweaver-test-change-gpu", arn = "arn:gpu", url = "https://gpu" }
  }
  groups = {
    default = { name = "bloomweaver-test-default", arn = "arn:default" }
    gpu     = { name = "bloomweaver-test-gpu", arn = "arn:gpu" }
  }
}

run "alarms_reach_people" {
  command = plan

  variables {
    alarm_emails = ["ops@example.com", "lead@example.com"]
  }

  assert {
    condition     = toset([for mail in aws_sns_topic_subscription.email : "${mail.protocol}:${mail.endpoint}"]) == toset(["email:ops@example.com", "email:lead@example.com"])
    error_message = "Each address must be subscribed to the topic."
  }

  assert {
    condition = alltrue([
      for alarm in concat(values(aws_cloudwatch_metric_alarm.error_rate), [aws_cloudwatch_metric_alarm.freshness],
      values(aws_cloudwatch_metric_alarm.function_errors), values(aws_cloudwatch_metric_alarm.function_throttles)) :
      alarm.alarm_actions == toset([aws_sns_topic.alarms.arn]) && alarm.treat_missing_data == "notBreaching"
    ])
    error_message = "Every alarm must tell the topic, and none may go off because nothing happens."
  }
}

run "a_schedule_that_stops_is_told" {
  command = plan

  variables {
    functions = { create = "bloomweaver-test-create", sweep = "bloomweaver-test-sweep" }
  }

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.clock : key => "${alarm.metric_name} ${alarm.dimensions.FunctionName} ${alarm.comparison_operator} ${alarm.threshold}" } == {
      sweep = "Invocations bloomweaver-test-sweep LessThanThreshold 1"
    }
    error_message = "The function that only a schedule calls must be watched for not being called, and no other."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.clock : alarm.treat_missing_data == "breaching" && alarm.alarm_actions == toset([aws_sns_topic.alarms.arn])])
    error_message = "A function that is not called has no data at all: that must tell the topic."
  }
}

run "no_clock_without_its_function" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.clock) == 0
    error_message = "Before there is a sweeper its alarm would never end."
  }
}

run "the_topic_is_encrypted_with_a_key_that_alarms_may_use" {
  command = plan

  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.topic[0].arn && aws_kms_key.topic[0].enable_key_rotation
    error_message = "Without a key of the caller's the topic must use the one that is made, which rotates."
  }

  assert {
    condition = anytrue([
      for statement in jsondecode(aws_kms_key.topic[0].policy).Statement :
      contains(flatten([lookup(statement.Principal, "Service", [])]), "cloudwatch.amazonaws.com") &&
      contains(flatten([lookup(statement.Principal, "Service", [])]), "budgets.amazonaws.com") &&
      contains(statement.Action, "kms:GenerateDataKey") && contains(statement.Action, "kms:Decrypt")
    ])
    error_message = "CloudWatch and Budgets must be able to use the key, or alarms are lost in silence."
  }

  assert {
    condition     = !strcontains(aws_kms_key.topic[0].policy, "kms:*")
    error_message = "The key's policy must name its actions."
  }
}

run "a_given_key_is_used_and_none_made" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/given"
  }

  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == "arn:aws:kms:us-east-1:123456789012:key/given" && length(aws_kms_key.topic) == 0
    error_message = "The caller's key must encrypt the topic, and no other be made."
  }
}

run "only_this_account_publishes_and_only_over_tls" {
  command = plan

  assert {
    condition = anytrue([
      for statement in jsondecode(aws_sns_topic_policy.alarms.policy).Statement :
      statement.Effect == "Deny" && statement.Principal == "*" && statement.Condition == { Bool = { "aws:SecureTransport" = "false" } }
      if statement.Sid == "OnlyOverTls"
    ])
    error_message = "What does not come over TLS must be denied."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_sns_topic_policy.alarms.policy).Statement :
      statement.Effect == "Deny" || try(statement.Condition.StringEquals["aws:SourceAccount"], "") == "123456789012"
    ])
    error_message = "Nobody else's alarms may be let in."
  }

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_sns_topic_policy.alarms.policy).Statement : statement.Principal.Service if statement.Effect == "Allow"
    ])) == toset(["cloudwatch.amazonaws.com", "budgets.amazonaws.com"])
    error_message = "CloudWatch and Budgets publish, and nobody else."
  }
}

run "error_rates_are_shares_of_enough" {
  command = plan

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.error_rate : alarm.threshold == 5 && alarm.comparison_operator == "GreaterThanThreshold" && alarm.datapoints_to_alarm == 2])
    error_message = "An error rate over 5 % must alarm."
  }

  assert {
    condition = one([
      for query in aws_cloudwatch_metric_alarm.error_rate["api-errors"].metric_query : query.expression if query.return_data
    ]) == "IF((FILL(all0, 0)) >= 10, 100 * (FILL(failed0, 0)) / (FILL(all0, 0)), 0)"
    error_message = "The API's rate must be 5xx of all requests, from ten on."
  }

  assert {
    condition = one([
      for query in aws_cloudwatch_metric_alarm.error_rate["message-failures"].metric_query : query.expression if query.return_data
    ]) == "IF((FILL(all0, 0) + FILL(all1, 0)) >= 10, 100 * (FILL(failed0, 0)) / (FILL(all0, 0) + FILL(all1, 0)), 0)"
    error_message = "The messages' rate must be the failed of the failed and done."
  }

  assert {
    condition = {
      for query in aws_cloudwatch_metric_alarm.error_rate["api-errors"].metric_query : query.id => "${query.metric[0].namespace} ${query.metric[0].metric_name} ${query.metric[0].dimensions.ApiId} ${query.metric[0].stat}" if length(query.metric) > 0
    } == { all0 = "AWS/ApiGateway Count api123 Sum", failed0 = "AWS/ApiGateway 5xx api123 Sum" }
    error_message = "The API's rate must look at its 5xx and its requests."
  }

  assert {
    condition = {
      for query in aws_cloudwatch_metric_alarm.error_rate["message-failures"].metric_query : query.id => "${query.metric[0].namespace} ${query.metric[0].metric_name}" if length(query.metric) > 0
    } == { all0 = "BloomWeaver/bloomweaver-test Failed", all1 = "BloomWeaver/bloomweaver-test Done", failed0 = "BloomWeaver/bloomweaver-test Failed" }
    error_message = "The messages' rate must look at what the filters make."
  }
}

run "freshness_alarms_on_one_in_twenty" {
  command = plan

  variables {
    freshness_p95_seconds = 120
  }

  assert {
    condition = (aws_cloudwatch_metric_alarm.freshness.extended_statistic == "p95" && aws_cloudwatch_metric_alarm.freshness.threshold == 120
    && aws_cloudwatch_metric_alarm.freshness.namespace == "BloomWeaver/bloomweaver-test" && aws_cloudwatch_metric_alarm.freshness.metric_name == "FreshnessSeconds")
    error_message = "The 95th percentile of the freshness must alarm above the threshold."
  }
}

run "functions_alarm_on_errors_and_the_webhook_on_throttles" {
  command = plan

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.function_errors : key => "${alarm.metric_name} ${alarm.dimensions.FunctionName}" } == {
      webhook = "Errors bloomweaver-test-webhook", create = "Errors bloomweaver-test-create"
    }
    error_message = "Each function's errors must alarm."
  }

  assert {
    condition     = { for key, alarm in aws_cloudwatch_metric_alarm.function_throttles : key => "${alarm.metric_name} ${alarm.dimensions.FunctionName} ${alarm.threshold}" } == { webhook = "Throttles bloomweaver-test-webhook 0" }
    error_message = "The webhook's throttles must alarm, those of others do not."
  }
}

run "every_log_group_is_counted" {
  command = plan

  assert {
    condition = toset([for filter in aws_cloudwatch_log_metric_filter.line : "${filter.log_group_name} ${filter.metric_transformation[0].name}"]) == toset(flatten([
      for group in ["/aws/lambda/bloomweaver-test-create", "/bloomweaver-test/workers/small"] :
      [for metric in ["Applied", "FreshnessSeconds", "Done", "Failed", "DeadLettered", "EmbeddedChunks"] : "${group} ${metric}"]
    ]))
    error_message = "Each metric must be made of each log group."
  }

  assert {
    condition     = alltrue([for filter in aws_cloudwatch_log_metric_filter.line : filter.metric_transformation[0].namespace == "BloomWeaver/bloomweaver-test"])
    error_message = "The metrics' namespace must name the installation, or two of them mix."
  }

  assert {
    condition     = alltrue([for filter in aws_cloudwatch_log_metric_filter.line : filter.metric_transformation[0].default_value == null if filter.metric_transformation[0].name == "FreshnessSeconds"])
    error_message = "A default of the freshness would drown what was measured in zeros."
  }
}

run "the_budget_warns_before_and_when_it_is_passed" {
  command = plan

  variables {
    monthly_budget_usd = 50
    budget_tag         = { key = "Project", value = "bloomweaver" }
  }

  assert {
    condition     = aws_budgets_budget.month[0].limit_amount == "50" && aws_budgets_budget.month[0].time_unit == "MONTHLY" && aws_budgets_budget.month[0].limit_unit == "USD"
    error_message = "The budget must be the month's, in dollars."
  }

  assert {
    condition     = toset([for told in aws_budgets_budget.month[0].notification : "${told.notification_type} ${told.threshold}"]) == toset(["ACTUAL 80", "ACTUAL 100", "FORECASTED 100"])
    error_message = "It must be told of before it is passed, when that is expected, and when it is."
  }

  assert {
    condition     = alltrue([for told in aws_budgets_budget.month[0].notification : told.subscriber_sns_topic_arns == toset([aws_sns_topic.alarms.arn])])
    error_message = "The budget must write to the topic."
  }

  assert {
    condition     = one(aws_budgets_budget.month[0].cost_filter).values == tolist(["user:Project$bloomweaver"])
    error_message = "With a tag only what carries it may be counted."
  }
}

run "no_budget_without_a_number" {
  command = plan

  assert {
    condition     = length(aws_budgets_budget.month) == 0
    error_message = "A budget must not be made up."
  }
}

run "the_dashboard_shows_what_matters" {
  command = plan

  variables {
    instance_hour_usd = { gpu = 0.526 }
  }

  assert {
    condition = alltrue([
      for shown in ["Applied", "FreshnessSeconds", "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage", "GroupInServiceInstances", "5xx", "4xx", "Latency", "Throttles", "Duration"] :
      strcontains(aws_cloudwatch_dashboard.all.dashboard_body, "\"${shown}\"")
    ])
    error_message = "Throughput, freshness, depth, age, workers, the API and the functions must be shown."
  }

  assert {
    condition = alltrue([
      for name in ["bloomweaver-test-change", "bloomweaver-test-change-gpu", "bloomweaver-test-dead-letter", "bloomweaver-test-create"] :
      strcontains(aws_cloudwatch_dashboard.all.dashboard_body, "\"QueueName\",\"${name}\"")
    ])
    error_message = "Every queue must be shown."
  }

  assert {
    condition = anytrue([
      for widget in jsondecode(aws_cloudwatch_dashboard.all.dashboard_body).widgets :
      widget.properties.period == 3600 && widget.properties.metrics[0][0].expression == "FILL(g0, 0) * 0.526" && widget.properties.metrics[2][3] == "bloomweaver-test-gpu"
      if widget.properties.title == "Cost of the instances (estimate)"
    ])
    error_message = "The estimate must be hours of the groups whose price is known, times that price."
  }

  assert {
    condition     = alltrue([for widget in jsondecode(aws_cloudwatch_dashboard.all.dashboard_body).widgets : widget.properties.region == "us-east-1"])
    error_message = "Without its region a graph is empty."
  }
}

run "before_there_are_functions_and_workers_nothing_is_said_of_them" {
  command = plan

  variables {
    groups          = {}
    functions       = {}
    log_group_names = {}
    api_id          = null
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.error_rate) == ["message-failures"] && length(aws_cloudwatch_metric_alarm.function_throttles) == 0
    error_message = "What is not there cannot alarm."
  }

  assert {
    condition     = !strcontains(aws_cloudwatch_dashboard.all.dashboard_body, "AWS/ApiGateway")
    error_message = "No API, no graph of it."
  }

  assert {
    condition     = alltrue([for widget in jsondecode(aws_cloudwatch_dashboard.all.dashboard_body).widgets : length(widget.properties.metrics) > 0])
    error_message = "CloudWatch refuses a dashboard with a graph of nothing."
  }
}

run "a_wrong_name_is_refused" {
  command = plan

  variables {
    name = "Bloom_Weaver"
  }

  expect_failures = [var.name]
}

run "what_is_no_address_is_refused" {
  command = plan

  variables {
    alarm_emails = ["ops"]
  }

  expect_failures = [var.alarm_emails]
}
