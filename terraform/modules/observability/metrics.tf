# Functions are not scraped: their log lines are counted. metrics.json is read by the product's tests
# too, so that a line that changes its event or fields fails there.
locals {
  metrics = { for metric in jsondecode(file("${path.module}/metrics.json")) : metric.name => metric }

  filters = merge([
    for key, group in var.log_group_names : {
      for name in keys(local.metrics) : "${key}/${name}" => { log_group_name = group, metric = name }
    }
  ]...)
}

resource "aws_cloudwatch_log_metric_filter" "line" {
  for_each = local.filters

  name           = "${var.name}-${each.value.metric}"
  log_group_name = each.value.log_group_name
  pattern        = local.metrics[each.value.metric].pattern

  metric_transformation {
    name          = each.value.metric
    namespace     = local.metric_namespace
    value         = local.metrics[each.value.metric].value
    unit          = local.metrics[each.value.metric].unit
    default_value = local.metrics[each.value.metric].default_value
  }
}
