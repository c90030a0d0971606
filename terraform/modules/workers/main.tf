locals {
  # One file for the fleet of one machine and for these groups: common/scaling_policy.json.
  policy = jsondecode(file("${path.module}/../../../common/scaling_policy.json"))

  arn       = split(":", var.data.table.arn)
  partition = local.arn[1]
  region    = local.arn[3]
  account   = local.arn[4]

  hook_name = "drain"
  ami       = "/aws/service/ecs/optimized-ami/amazon-linux-2023"

  fleets = {
    for key, variant in var.variants : key => merge(variant, {
      name           = "${var.name}-worker-${key}"
      queue          = var.data.change_queues[key]
      min_size       = coalesce(variant.min_size, local.policy.workers_min)
      max_size       = coalesce(variant.max_size, local.policy.group_workers_max)
      instance_types = length(variant.instance_types) > 0 ? variant.instance_types : local.usual_instance_types[variant.gpu]
      volume_gb      = coalesce(variant.volume_gb, variant.gpu ? 60 : 30)
      image_id       = coalesce(variant.ami_id, "resolve:ssm:${local.ami}/${variant.gpu ? "gpu/" : ""}recommended/image_id")
    })
  }

  # Four cores each: a worker's lanes take no more.
  usual_instance_types = {
    false = ["c7i.xlarge", "c7a.xlarge", "c6i.xlarge", "c6a.xlarge", "m7i.xlarge", "m6i.xlarge"]
    true  = ["g6.xlarge", "g5.xlarge", "g4dn.xlarge"]
  }
}

resource "aws_cloudwatch_log_group" "workers" {
  #checkov:skip=CKV_AWS_158:Logs are encrypted without a customer key, too; kms_key_arn gives one.
  #checkov:skip=CKV_AWS_338:How long logs are kept is the caller's choice and cost.
  for_each = local.fleets

  name              = "/${var.name}/worker/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_launch_template" "workers" {
  #checkov:skip=CKV_AWS_341:The worker reads notices from metadata in a container, which is one hop more.
  for_each = local.fleets

  name                   = each.value.name
  description            = "Embedding workers, variant ${each.key}"
  image_id               = each.value.image_id
  user_data              = base64encode(local.user_data[each.key])
  update_default_version = true
  ebs_optimized          = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.workers[each.key].arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
    instance_metadata_tags      = "enabled"
  }

  network_interfaces {
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = var.security_group_ids
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.volume_gb
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = each.value.name })
    }
  }

  tags = var.tags

  lifecycle {
    precondition {
      condition     = length(local.user_data[each.key]) <= 16384
      error_message = "Variant ${each.key}: its user data takes ${length(local.user_data[each.key])} characters, and EC2 no more than 16384: shorten settings, such as BLOOMWEAVER_EMBEDDING_VARIANTS."
    }
  }
}

resource "aws_autoscaling_group" "workers" {
  for_each = local.fleets

  name                = each.value.name
  min_size            = each.value.min_size
  desired_capacity    = each.value.min_size
  max_size            = each.value.max_size
  vpc_zone_identifier = var.subnet_ids
  health_check_type   = "EC2"

  # The alarms of scaling.tf read what the group tells of itself.
  enabled_metrics     = !var.group_metrics ? null : ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupPendingInstances", "GroupTerminatingInstances", "GroupTotalInstances"]
  metrics_granularity = "1Minute"

  # Longer than group metrics are late. While an instance warms up no policy scales in.
  default_instance_warmup = 180

  # A worker drains on the notice of an interruption itself. Replacing instances on mere
  # recommendations would start some that a short queue never needs.
  capacity_rebalance = false

  # An empty group is no failure to start.
  wait_for_capacity_timeout = "0"

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = each.value.on_demand_base
      on_demand_percentage_above_base_capacity = each.value.on_demand_percentage
      on_demand_allocation_strategy            = "prioritized"
      spot_allocation_strategy                 = "price-capacity-optimized"
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.workers[each.key].id
        version            = aws_launch_template.workers[each.key].latest_version
      }

      dynamic "override" {
        for_each = each.value.instance_types

        content {
          instance_type = override.value
        }
      }
    }
  }

  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 50
      instance_warmup        = 180
      # Each is drained by the lifecycle hook; a busy worker would otherwise never be replaced.
      scale_in_protected_instances = "Refresh"
      # AWS rolls back only where the template names an image, not a parameter.
      auto_rollback = each.value.ami_id != null
    }
  }

  dynamic "tag" {
    for_each = merge(var.tags, { Name = each.value.name })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  lifecycle {
    # The backlog decides.
    ignore_changes = [desired_capacity]

    precondition {
      condition     = each.value.min_size <= each.value.max_size
      error_message = "Variant ${each.key}: min_size ${each.value.min_size} is above max_size ${each.value.max_size}."
    }
  }
}

resource "aws_autoscaling_lifecycle_hook" "drain" {
  for_each = local.fleets

  name                   = local.hook_name
  autoscaling_group_name = aws_autoscaling_group.workers[each.key].name
  lifecycle_transition   = "autoscaling:EC2_INSTANCE_TERMINATING"
  default_result         = "CONTINUE"
  # A worker begins this anew every 20 s while it drains: only one that is dead is waited for so long.
  heartbeat_timeout = max(90, var.drain_timeout_seconds + 30)
}
