mock_provider "aws" {
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/worker" }
  }
  mock_resource "aws_autoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-west-1:123456789012:scalingPolicy:1:autoScalingGroupName/g:policyName/p" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0a1b2c3d4e5f60718", latest_version = 3 }
  }
}

variables {
  name = "bloomweaver-test"
  data = {
    queues = {
      create      = { name = "bloomweaver-test-create", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-create", url = "https://q/create" }
      update      = { name = "bloomweaver-test-update", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-update", url = "https://q/update" }
      delete      = { name = "bloomweaver-test-delete", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-delete", url = "https://q/delete" }
      intake      = { name = "bloomweaver-test-intake", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-intake", url = "https://q/intake" }
      dead_letter = { name = "bloomweaver-test-dead-letter", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-dead-letter", url = "https://q/dead-letter" }
    }
    change_queues = {
      default = { name = "bloomweaver-test-change", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-change", url = "https://q/change" }
      large   = { name = "bloomweaver-test-change-large", arn = "arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-change-large", url = "https://q/change-large" }
    }
    table   = { name = "bloomweaver-test", arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/bloomweaver-test" }
    blobs   = { bucket = "bloomweaver-test-blobs", arn = "arn:aws:s3:::bloomweaver-test-blobs", prefix = "store" }
    landing = { bucket = "bloomweaver-test-landing", arn = "arn:aws:s3:::bloomweaver-test-landing" }
    secret_arns = {
      pinecone = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:bloomweaver-test/pinecone-AbCdEf"
    }
  }
  settings = {
    BLOOMWEAVER_QUEUE_URL          = "sqs:"
    BLOOMWEAVER_EMBEDDER_URL       = "profile:of-the-default"
    BLOOMWEAVER_EMBEDDING_VARIANTS = "{\"large\":{\"namespaces\":[\"kb-*\"],\"change_queue_name\":\"bloomweaver-test-change-large\",\"embedder_url\":\"profile:of-large\"}}"
  }
  subnet_ids         = ["subnet-1", "subnet-2"]
  security_group_ids = ["sg-1"]
  variants = {
    default = {
      image_uri    = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/bloomweaver-test/worker-cpu@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      embedder_url = "fastembed:default"
    }
    large = {
      image_uri            = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/bloomweaver-test/worker-gpu:1.2.3"
      embedder_url         = "fastembed:/models/large"
      instance_types       = ["g6.xlarge", "g5.xlarge"]
      max_size             = 3
      on_demand_base       = 1
      on_demand_percentage = 25
      gpu                  = true
    }
  }
}

run "costs_nothing_without_work" {
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : group.min_size == 0 && group.desired_capacity == 0])
    error_message = "There are no instances until there is work."
  }
  assert {
    condition     = aws_autoscaling_group.workers["default"].max_size == jsondecode(file("../../../common/scaling_policy.json")).group_workers_max && aws_autoscaling_group.workers["large"].max_size == 3
    error_message = "The maximum is the policy's, unless the variant says another."
  }
}

run "groups" {
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : group.mixed_instances_policy[0].instances_distribution[0].spot_allocation_strategy == "price-capacity-optimized" && length(group.mixed_instances_policy[0].launch_template[0].override) > 1])
    error_message = "Spot instances of several types, of where there are most of them."
  }
  assert {
    condition     = aws_autoscaling_group.workers["large"].mixed_instances_policy[0].instances_distribution[0].on_demand_base_capacity == 1 && aws_autoscaling_group.workers["large"].mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 25
    error_message = "As many on-demand instances as the variant wants."
  }
  assert {
    condition     = aws_autoscaling_group.workers["large"].mixed_instances_policy[0].launch_template[0].override[*].instance_type == tolist(["g6.xlarge", "g5.xlarge"])
    error_message = "The variant's own instance types."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : contains(group.enabled_metrics, "GroupDesiredCapacity") && contains(group.enabled_metrics, "GroupInServiceInstances") && group.metrics_granularity == "1Minute"])
    error_message = "Without its group's metrics no alarm scales."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : group.default_instance_warmup >= 180])
    error_message = "A warm-up shorter than metrics are late would let a step take away what was just added."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : group.instance_refresh[0].preferences[0].auto_rollback == false && group.instance_refresh[0].preferences[0].scale_in_protected_instances == "Refresh"])
    error_message = "AWS refuses a rollback where the AMI is a parameter; busy workers are replaced, too."
  }
  assert {
    condition     = alltrue([for hook in aws_autoscaling_lifecycle_hook.drain : hook.lifecycle_transition == "autoscaling:EC2_INSTANCE_TERMINATING" && hook.heartbeat_timeout >= var.drain_timeout_seconds + 30 && hook.default_result == "CONTINUE"])
    error_message = "A group waits until its worker has drained, and no longer for one that is dead."
  }
  assert {
    condition     = output.groups["large"].name == "bloomweaver-test-worker-large" && output.log_group_names["default"] == "/bloomweaver-test/worker/default"
    error_message = "Groups and log groups are named for their variants."
  }
}

run "instances" {
  assert {
    condition     = alltrue([for template in aws_launch_template.workers : template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 2 && template.metadata_options[0].instance_metadata_tags == "enabled"])
    error_message = "Version 2 of the metadata service only, a hop away, with tags."
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.workers : template.network_interfaces[0].associate_public_ip_address == "false" && template.key_name == null && template.network_interfaces[0].security_groups == toset(["sg-1"])])
    error_message = "No public address, no key to log in with, the given security group."
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.workers : template.block_device_mappings[0].ebs[0].encrypted == "true" && template.block_device_mappings[0].ebs[0].volume_type == "gp3"])
    error_message = "Volumes are encrypted gp3."
  }
  assert {
    condition     = aws_launch_template.workers["default"].image_id == "resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id" && aws_launch_template.workers["large"].image_id == "resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
    error_message = "The newest image with Docker; with a driver where there is a GPU."
  }
}

run "tags_and_boundary_reach_what_groups_start" {
  variables {
    tags                     = { Project = "bloomweaver" }
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/bound"
  }
  assert {
    condition = alltrue(flatten([
      for template in aws_launch_template.workers : [
        toset(template.tag_specifications[*].resource_type) == toset(["instance", "volume", "network-interface"]),
        [for one in template.tag_specifications : one.tags["Project"] == "bloomweaver"],
      ]
    ]))
    error_message = "Instances, volumes and interfaces carry the tags: costs and rights go by them."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.workers : anytrue([for tag in group.tag : tag.key == "Project" && tag.value == "bloomweaver" && tag.propagate_at_launch])])
    error_message = "The group hands its tags on."
  }
  assert {
    condition     = alltrue([for role in aws_iam_role.workers : role.permissions_boundary == var.permissions_boundary_arn])
    error_message = "An account that bounds its roles refuses one without the boundary."
  }
}

run "a_new_version_of_secrets_starts_new_instances_where_they_are_read" {
  variables {
    secret_names    = ["pinecone"]
    secrets_version = "2"
  }
  assert {
    condition     = contains(split("\n", base64decode(aws_launch_template.workers["default"].user_data)), "BLOOMWEAVER_SECRETS_VERSION=2")
    error_message = "What reads secrets has to start anew to read them again."
  }
}

run "without_secrets_no_instance_is_replaced_for_them" {
  variables {
    secrets_version = "2"
  }
  assert {
    condition     = !strcontains(base64decode(aws_launch_template.workers["default"].user_data), "SECRETS_VERSION")
    error_message = "Embedding workers read no secrets: a new version would replace them for nothing."
  }
}

run "user_data_that_ec2_would_refuse_is_refused_in_the_plan" {
  command = plan
  variables {
    settings = { BLOOMWEAVER_INDEX_URL = join("", [for one in range(1024) : "pinecone:0123456"]) }
  }
  expect_failures = [aws_launch_template.workers]
}

run "what_an_instance_runs" {
  assert {
    condition = alltrue([
      for line in ["--read-only", "--cap-drop ALL", "no-new-privileges", "--tmpfs /tmp", "awslogs-group=/bloomweaver-test/worker/default", "Restart=on-failure", "worker embed"] :
      strcontains(base64decode(aws_launch_template.workers["default"].user_data), line)
    ])
    error_message = "A container that writes to /tmp only, has no privileges, logs to CloudWatch and is started again when it fails."
  }
  assert {
    condition = alltrue([
      for line in ["BLOOMWEAVER_QUEUE_URL=sqs:", "BLOOMWEAVER_EMBEDDER_URL=fastembed:default", "BLOOMWEAVER_LIFECYCLE_HOOK_NAME=drain", "BLOOMWEAVER_SCALE_IN_PROTECTION=on", "BLOOMWEAVER_EC2_NOTICES=on", "AWS_REGION=eu-west-1", "BLOOMWEAVER_EMBEDDING_VARIANT="] :
      contains(split("\n", base64decode(aws_launch_template.workers["default"].user_data)), line)
    ])
    error_message = "The worker knows its model, its hook and its region, and protects its instance."
  }
  assert {
    condition     = contains(split("\n", base64decode(aws_launch_template.workers["large"].user_data)), "BLOOMWEAVER_EMBEDDING_VARIANT=large") && strcontains(base64decode(aws_launch_template.workers["large"].user_data), "\"embedder_url\":\"fastembed:/models/large\"") && strcontains(base64decode(aws_launch_template.workers["large"].user_data), "BLOOMWEAVER_EMBEDDER_URL=profile:of-the-default")
    error_message = "A variant's worker loads its own model and knows the default one by its profile."
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.workers["large"].user_data), "--gpus all") && strcontains(base64decode(aws_launch_template.workers["large"].user_data), "BLOOMWEAVER_DEVICE=cuda") && !strcontains(base64decode(aws_launch_template.workers["default"].user_data), "--gpus")
    error_message = "A GPU is used where there is one."
  }
  assert {
    condition = (
      tonumber(regex("--stop-timeout ([0-9]+)", base64decode(aws_launch_template.workers["default"].user_data))[0]) > tonumber(regex("BLOOMWEAVER_DRAIN_TIMEOUT_SECONDS=([0-9]+)", base64decode(aws_launch_template.workers["default"].user_data))[0]) &&
      tonumber(regex("TimeoutStopSec=([0-9]+)", base64decode(aws_launch_template.workers["default"].user_data))[0]) > tonumber(regex("--stop-timeout ([0-9]+)", base64decode(aws_launch_template.workers["default"].user_data))[0])
    )
    error_message = "Docker waits longer than a drain takes, and systemd longer than Docker."
  }
}

run "what_an_instance_may_do" {
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.workers["large"].policy).Statement : statement.Resource
      if contains(statement.Action, "sqs:ReceiveMessage")
    ] == [["arn:aws:sqs:eu-west-1:123456789012:bloomweaver-test-change-large"]]
    error_message = "A worker takes messages of its own variant only."
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.workers["default"].policy).Statement : statement.Action
      if contains(statement.Resource, "*")
    ] == [["autoscaling:DescribeAutoScalingInstances", "ecr:GetAuthorizationToken"]]
    error_message = "Only what AWS has no resource level for is allowed on all resources."
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.workers["default"].policy).Statement :
      statement.Resource == ["arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:*:autoScalingGroupName/bloomweaver-test-worker-default"]
      if contains(statement.Action, "autoscaling:SetInstanceProtection")
    ])
    error_message = "A worker minds its own group only."
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.workers["large"].policy).Statement : statement.Resource
      if contains(statement.Action, "ecr:BatchGetImage")
    ] == [["arn:aws:ecr:eu-west-1:123456789012:repository/bloomweaver-test/worker-gpu"]]
    error_message = "A worker pulls its own image only."
  }
  assert {
    condition = !anytrue([
      for statement in jsondecode(aws_iam_role_policy.workers["default"].policy).Statement :
      anytrue([for action in statement.Action : startswith(action, "secretsmanager:") || startswith(action, "kms:") || endswith(action, "*")])
    ])
    error_message = "No secrets, no keys, no wildcards."
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.workers["default"].policy).Statement : statement.Resource
      if contains(statement.Action, "s3:DeleteObject")
    ] == [["arn:aws:s3:::bloomweaver-test-blobs/store/packs/*"]]
    error_message = "Torn packs may be removed; all other blobs are the sweeper's to delete."
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.workers["default"].policy).Statement : statement.Resource
      if contains(statement.Action, "s3:PutObject")
    ] == [["arn:aws:s3:::bloomweaver-test-blobs/store/*"]]
    error_message = "Blobs are written under their prefix only."
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.session_manager) == 0
    error_message = "Nobody opens a shell unless it was asked for."
  }
}

run "with_a_key_secrets_and_shells" {
  variables {
    kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/1"
    secret_names    = ["pinecone"]
    session_manager = true
  }
  assert {
    condition = alltrue([
      for action in ["kms:Decrypt", "kms:GenerateDataKey", "secretsmanager:GetSecretValue"] :
      contains(flatten(jsondecode(aws_iam_role_policy.workers["default"].policy).Statement[*].Action), action)
    ])
    error_message = "With a customer key and secrets come the rights to use them."
  }
  assert {
    condition     = contains(split("\n", base64decode(aws_launch_template.workers["default"].user_data)), "BLOOMWEAVER_SECRET_IDS=${var.data.secret_arns.pinecone}")
    error_message = "The worker is told which secrets to read."
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.session_manager) == 2 && aws_launch_template.workers["large"].block_device_mappings[0].ebs[0].kms_key_id == var.kms_key_arn && aws_cloudwatch_log_group.workers["large"].kms_key_id == var.kms_key_arn
    error_message = "Shells where they were asked for; volumes and logs under the given key."
  }
}

run "pinned" {
  variables {
    variants = {
      default = {
        image_uri = "public.example.org/worker:1"
        ami_id    = "ami-0123456789abcdef0"
      }
    }
  }
  assert {
    condition     = aws_launch_template.workers["default"].image_id == "ami-0123456789abcdef0" && aws_autoscaling_group.workers["default"].instance_refresh[0].preferences[0].auto_rollback
    error_message = "A pinned AMI lets a failed refresh roll back."
  }
  assert {
    condition     = !contains(flatten(jsondecode(aws_iam_role_policy.workers["default"].policy).Statement[*].Action), "ecr:BatchGetImage")
    error_message = "An image that is none of ECR's needs no right there."
  }
}

run "the_image_s_model" {
  variables {
    variants = { default = { image_uri = "worker:1" } }
  }
  assert {
    condition     = !strcontains(base64decode(aws_launch_template.workers["default"].user_data), "BLOOMWEAVER_EMBEDDER_URL")
    error_message = "A profile embeds nothing: without a model of its own the worker goes by its image's."
  }
}

run "alarm_for_people" {
  variables {
    alarm_topic_arns = ["arn:aws:sns:eu-west-1:123456789012:alarms"]
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.no_worker : alarm.alarm_actions == toset(var.alarm_topic_arns) && alarm.evaluation_periods == 15])
    error_message = "Somebody is told when documents wait and no worker comes up."
  }
}

run "a_minimum_above_the_maximum" {
  command = plan
  variables {
    variants = { default = { image_uri = "x", min_size = 4, max_size = 2 } }
  }
  expect_failures = [aws_autoscaling_group.workers]
}

run "a_line_break_in_a_setting" {
  command = plan
  variables {
    settings = { BLOOMWEAVER_A = "one\nBLOOMWEAVER_B=two" }
  }
  expect_failures = [var.settings]
}

run "an_unknown_secret" {
  command = plan
  variables {
    secret_names = ["nonesuch"]
  }
  expect_failures = [var.secret_names]
}
