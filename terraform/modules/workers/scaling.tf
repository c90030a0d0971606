# What workers/scaling.py decides on one machine, said in alarms and steps:
#   wanted = min(max_size, ceil(backlog / backlog_per_worker)), backlog = visible + in flight.
# A group grows to `wanted` at once and shrinks only when nothing was left for worker_idle_seconds.
#
# A step says how many workers there are to be (ExactCapacity), not how many more: an alarm acts every
# minute while it lasts, on metrics that are a minute or two late, and more of the same would be added
# each time. Such a step could also take workers away. So the alarm's metric is `wanted` only where
# that is above the group's desired capacity, and else 0, which is no alarm; and while what was just
# added warms up, longer than the metrics are late, Auto Scaling starts no scale-in.
#
# A policy has 20 steps at most: each takes 19 sizes, the first one also what an idle group returns to.
locals {
  sizes_a_policy = 19

  stages = merge([
    for key, fleet in local.fleets : {
      for index, sizes in chunklist(range(1, fleet.max_size + 1), local.sizes_a_policy) :
      (index == 0 ? key : "${key}/${index + 1}") => {
        fleet = key
        sizes = sizes
        first = sizes[0]
        last  = sizes[length(sizes) - 1]
        # Only one stage is in alarm at a time: two would set their sizes in any order.
        bound  = sizes[length(sizes) - 1] == fleet.max_size ? "" : " AND wanted <= ${sizes[length(sizes) - 1]}"
        idle   = index == 0
        suffix = index == 0 ? "" : "-${index + 1}"
      }
    }
  ]...)

  needed = { for key, fleet in local.fleets : key => "CEIL(backlog / ${local.policy.backlog_per_worker})" }

  idle_minutes = max(1, ceil(local.policy.worker_idle_seconds / 60))

  queue_metrics = {
    visible   = "ApproximateNumberOfMessagesVisible"
    in_flight = "ApproximateNumberOfMessagesNotVisible"
  }
}

resource "aws_autoscaling_policy" "backlog" {
  for_each = local.stages

  name                   = "${local.fleets[each.value.fleet].name}-backlog${each.value.suffix}"
  autoscaling_group_name = aws_autoscaling_group.workers[each.value.fleet].name
  policy_type            = "StepScaling"
  adjustment_type        = "ExactCapacity"

  # Below the threshold: the alarm of an idle group.
  dynamic "step_adjustment" {
    for_each = each.value.idle ? [local.fleets[each.value.fleet].min_size] : []

    content {
      metric_interval_upper_bound = 0
      scaling_adjustment          = step_adjustment.value
    }
  }

  # From the threshold on, one step for each size.
  dynamic "step_adjustment" {
    for_each = each.value.sizes

    content {
      metric_interval_lower_bound = step_adjustment.value - each.value.first
      metric_interval_upper_bound = step_adjustment.value == each.value.last ? null : step_adjustment.value - each.value.first + 1
      scaling_adjustment          = step_adjustment.value
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "backlog" {
  for_each = local.stages

  alarm_name          = "${local.fleets[each.value.fleet].name}-backlog${each.value.suffix}"
  alarm_description   = "Scales out: ${each.value.first} to ${each.value.last} workers of variant ${each.value.fleet} are wanted, and there are fewer."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.first
  evaluation_periods  = 1
  datapoints_to_alarm = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_autoscaling_policy.backlog[each.key].arn]
  tags                = var.tags

  # No FILL: a metric that is late would read as 0, and its newest minute always is.
  metric_query {
    id          = "missing"
    expression  = "IF(wanted > running${each.value.bound}, wanted, 0)"
    label       = "Workers wanted, where there are fewer"
    return_data = true
  }

  metric_query {
    id         = "wanted"
    expression = "IF(${local.needed[each.value.fleet]} > ${local.fleets[each.value.fleet].max_size}, ${local.fleets[each.value.fleet].max_size}, ${local.needed[each.value.fleet]})"
    label      = "Workers wanted"
  }

  metric_query {
    id         = "backlog"
    expression = "visible + in_flight"
    label      = "Messages waiting or in flight"
  }

  dynamic "metric_query" {
    for_each = local.queue_metrics

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/SQS"
        metric_name = metric_query.value
        dimensions  = { QueueName = local.fleets[each.value.fleet].queue.name }
        period      = 60
        stat        = "Maximum"
      }
    }
  }

  metric_query {
    id = "running"

    metric {
      namespace   = "AWS/AutoScaling"
      metric_name = "GroupDesiredCapacity"
      dimensions  = { AutoScalingGroupName = local.fleets[each.value.fleet].name }
      period      = 60
      stat        = "Maximum"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "idle" {
  for_each = local.fleets

  alarm_name          = "${each.value.name}-idle"
  alarm_description   = "Scales in: variant ${each.key} has had no message, waiting or in flight, for ${local.idle_minutes} min. In alarm whenever there is no work."
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  evaluation_periods  = local.idle_minutes
  datapoints_to_alarm = local.idle_minutes
  # What is not known to be idle is left alone.
  treat_missing_data = "missing"
  alarm_actions      = [aws_autoscaling_policy.backlog[each.key].arn]
  tags               = var.tags

  metric_query {
    id          = "backlog"
    expression  = "visible + in_flight"
    label       = "Messages waiting or in flight"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = local.queue_metrics

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/SQS"
        metric_name = metric_query.value
        dimensions  = { QueueName = each.value.queue.name }
        period      = 60
        stat        = "Maximum"
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "no_worker" {
  for_each = local.fleets

  alarm_name          = "${each.value.name}-none"
  alarm_description   = "Documents of variant ${each.key} wait, and no worker has been in service for 15 min: look at the group's activity, and at the log group /${var.name}/worker/${each.key}."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = 15
  datapoints_to_alarm = 15
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags

  metric_query {
    id          = "stuck"
    expression  = "IF(visible > 0 AND in_service < 1, 1, 0)"
    label       = "Work waits without a worker"
    return_data = true
  }

  metric_query {
    id = "visible"

    metric {
      namespace   = "AWS/SQS"
      metric_name = local.queue_metrics.visible
      dimensions  = { QueueName = each.value.queue.name }
      period      = 60
      stat        = "Minimum"
    }
  }

  metric_query {
    id = "in_service"

    metric {
      namespace   = "AWS/AutoScaling"
      metric_name = "GroupInServiceInstances"
      dimensions  = { AutoScalingGroupName = each.value.name }
      period      = 60
      stat        = "Maximum"
    }
  }
}
