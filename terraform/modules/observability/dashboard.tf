locals {
  all_queues = merge(
    { for role, queue in var.queues : role => queue.name },
    { for variant, queue in var.change_queues : variant == "default" ? "change" : "change-${variant}" => queue.name },
  )
  # Groups whose price is known, in a fixed order: metric math needs names such as g0, g1.
  priced = [for variant in sort(keys(var.groups)) : variant if contains(keys(var.instance_hour_usd), variant)]

  dollars_an_hour = join(" + ", [
    for index, variant in local.priced : "FILL(g${index}, 0) * ${var.instance_hour_usd[variant]}"
  ])

  api_error_rate = [
    [{ id = "api", label = "API, 5xx", expression = "IF(requests > 0, 100 * errors / requests, 0)" }],
    ["AWS/ApiGateway", "5xx", "ApiId", var.api_id, { id = "errors", visible = false }],
    ["AWS/ApiGateway", "Count", "ApiId", var.api_id, { id = "requests", visible = false }],
  ]

  # A graph of the API without an id of one, or of workers without groups, would be empty.
  graphs = [for graph in local.all_graphs : graph if length(graph.metrics) > 0 && !(!local.has_api && startswith(graph.title, "API"))]

  # Each: half the dashboard's width, two in a row.
  all_graphs = [
    {
      title = "Throughput: made visible, chunks embedded"
      stat  = "Sum"
      metrics = [
        [local.metric_namespace, "Applied", { label = "versions and deletes visible" }],
        [local.metric_namespace, "EmbeddedChunks", { label = "chunks embedded", yAxis = "right" }],
      ]
    },
    {
      title = "Error rate, %"
      stat  = "Sum"
      metrics = concat(
        [for line in local.api_error_rate : line if local.has_api],
        [
          [{ id = "tries", label = "tries of messages that failed", expression = "IF(done + failed > 0, 100 * failed / (done + failed), 0)" }],
          [local.metric_namespace, "Failed", { id = "failed", visible = false }],
          [local.metric_namespace, "Done", { id = "done", visible = false }],
          [local.metric_namespace, "DeadLettered", { label = "dead letters", yAxis = "right" }],
        ],
      )
    },
    {
      title = "Freshness: accept to visible, seconds"
      stat  = "p95"
      metrics = [
        [local.metric_namespace, "FreshnessSeconds", { stat = "p50", label = "p50" }],
        [local.metric_namespace, "FreshnessSeconds", { stat = "p95", label = "p95" }],
        [local.metric_namespace, "FreshnessSeconds", { stat = "Maximum", label = "longest" }],
      ]
    },
    {
      title   = "Workers: instances in service"
      stat    = "Average"
      metrics = [for variant, group in var.groups : ["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", group.name, { label = variant }]]
    },
    {
      title = "Queue depth: visible and in flight"
      stat  = "Maximum"
      metrics = concat(
        [for role, queue in local.all_queues : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue, { label = role }]],
        [for role, queue in local.all_queues : ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", queue, { label = "${role}, in flight" }]],
      )
    },
    {
      title   = "Queue age: oldest message, seconds"
      stat    = "Maximum"
      metrics = [for role, queue in local.all_queues : ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue, { label = role }]]
    },
    {
      title = "API: requests, 4xx, 5xx"
      stat  = "Sum"
      metrics = [
        for metric in ["Count", "4xx", "5xx"] : ["AWS/ApiGateway", metric, "ApiId", var.api_id, { label = metric }]
      ]
    },
    {
      title = "API: latency, ms"
      stat  = "p95"
      metrics = [
        for stat in ["p50", "p95", "p99"] : ["AWS/ApiGateway", "Latency", "ApiId", var.api_id, { stat = stat, label = stat }]
      ]
    },
    {
      title = "Functions: errors and throttles"
      stat  = "Sum"
      metrics = concat(
        [for role, function in var.functions : ["AWS/Lambda", "Errors", "FunctionName", function, { label = role }]],
        [for role, function in var.functions : ["AWS/Lambda", "Throttles", "FunctionName", function, { label = "${role}, throttled" }]],
      )
    },
    {
      title   = "Functions: duration p95, ms"
      stat    = "p95"
      metrics = [for role, function in var.functions : ["AWS/Lambda", "Duration", "FunctionName", function, { label = role }]]
    },
  ]

  cost_metrics = concat(
    [
      [{ id = "hourly", label = "US dollars an hour", expression = local.dollars_an_hour }],
      [{ id = "total", label = "US dollars since the left edge", expression = "RUNNING_SUM(hourly)", yAxis = "right" }],
    ],
    [
      for index, variant in local.priced :
      ["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", var.groups[variant].name, { id = "g${index}", visible = false }]
    ],
  )

  shown_graphs = concat(
    [for graph in local.graphs : merge(graph, { period = 300 })],
    # A period of an hour: an average of instances is then instance hours.
    [for metrics in [local.cost_metrics] : { title = "Cost of the instances (estimate)", stat = "Average", period = 3600, metrics = metrics } if length(local.priced) > 0],
  )
}

resource "aws_cloudwatch_dashboard" "all" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [
      for index, graph in local.shown_graphs : {
        type   = "metric"
        x      = 12 * (index % 2)
        y      = 6 * floor(index / 2)
        width  = 12
        height = 6
        properties = {
          title   = graph.title
          region  = data.aws_region.current.id
          view    = "timeSeries"
          stat    = graph.stat
          period  = graph.period
          metrics = graph.metrics
        }
      }
    ]
  })
}
