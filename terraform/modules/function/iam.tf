locals {
  log_statement = {
    sid        = "WriteLog"
    actions    = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources  = ["${aws_cloudwatch_log_group.this.arn}:*"]
    conditions = {}
  }

  key_statements = var.kms_key_arn == null ? [] : [{
    sid        = "UseKey"
    actions    = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources  = [var.kms_key_arn]
    conditions = {}
  }]

  # Lambda itself, not the function, makes interfaces with the role. It wants these on *: no interface
  # has a name before it is made, and what describes has no resource level.
  interface_actions = [
    "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
  ]

  # arn:PARTITION:logs:REGION:ACCOUNT:…; the function's own ARN is not known before its role is.
  log_group_arn = split(":", aws_cloudwatch_log_group.this.arn)
  interface_statements = var.vpc == null ? [] : [
    {
      sid        = "JoinVpc"
      effect     = "Allow"
      actions    = local.interface_actions
      resources  = ["*"]
      conditions = {}
    },
    {
      # So that the function's own code cannot.
      sid       = "LeaveInterfacesToLambda"
      effect    = "Deny"
      actions   = concat(local.interface_actions, ["ec2:DetachNetworkInterface"])
      resources = ["*"]
      conditions = { ArnEquals = { "lambda:SourceFunctionArn" = [
        format("arn:%s:lambda:%s:%s:function:%s", local.log_group_arn[1], local.log_group_arn[3], local.log_group_arn[4], var.function_name)
      ] } }
    },
  ]
  trace_statements = var.tracing ? [{
    sid        = "SendTraces"
    actions    = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources  = ["*"]
    conditions = {}
  }] : []

  statements = concat(
    [local.log_statement], var.statements, local.key_statements, local.interface_statements,
    local.trace_statements,
  )

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for one in local.statements : merge(
        { Sid = one.sid, Effect = lookup(one, "effect", "Allow"), Action = one.actions, Resource = one.resources },
        length(one.conditions) > 0 ? { Condition = one.conditions } : {},
      )
    ]
  })
}

resource "aws_iam_role" "this" {
  name                 = var.function_name
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  #checkov:skip=CKV_AWS_290:the writes that take * are those of network interfaces and traces, which have no resource level
  #checkov:skip=CKV_AWS_355:network interfaces and traces have no resource level, nothing else takes *
  name   = "rights"
  role   = aws_iam_role.this.id
  policy = local.policy
}
