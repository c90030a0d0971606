locals {
  secrets = [for name in sort(tolist(var.secret_names)) : var.data.secret_arns[name]]

  # 123456789012.dkr.ecr.eu-west-1.amazonaws.com/name/of/repository@sha256:… or :tag.
  repositories = {
    for key, fleet in local.fleets : key => try(
      format("arn:%s:ecr:%s:%s:repository/%s", concat([local.partition], [
        for index in [1, 0, 2] : regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.[^/]+/([^@:]+)", fleet.image_uri)[index]
      ])...), null
    )
  }

  statements = {
    for key, fleet in local.fleets : key => concat(
      [
        {
          Sid      = "LookAtQueues"
          Effect   = "Allow"
          Action   = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
          Resource = sort(distinct(concat(values(var.data.queues)[*].arn, values(var.data.change_queues)[*].arn)))
        },
        {
          Sid      = "WorkChanges"
          Effect   = "Allow"
          Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"]
          Resource = [fleet.queue.arn]
        },
        {
          # Changes, too: what is handed back goes as a copy, and a namespace may belong to another variant by now.
          Sid    = "WakeOthers"
          Effect = "Allow"
          Action = ["sqs:SendMessage"]
          Resource = sort(distinct(concat(
            [for name in ["create", "update", "delete", "dead_letter"] : var.data.queues[name].arn],
            values(var.data.change_queues)[*].arn,
          )))
        },
        {
          Sid      = "KeepRows"
          Effect   = "Allow"
          Action   = [for action in ["BatchGetItem", "BatchWriteItem", "DeleteItem", "DescribeTable", "GetItem", "PutItem", "Query", "UpdateItem"] : "dynamodb:${action}"]
          Resource = [var.data.table.arn, "${var.data.table.arn}/index/*"]
        },
        {
          Sid      = "LookAtBlobs"
          Effect   = "Allow"
          Action   = ["s3:GetBucketVersioning", "s3:ListBucket"]
          Resource = [var.data.blobs.arn]
        },
        {
          Sid      = "KeepBlobs"
          Effect   = "Allow"
          Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
          Resource = ["${var.data.blobs.arn}/${var.data.blobs.prefix}/*"]
        },
        {
          # A pack that is found torn is removed, and made again.
          Sid      = "RemoveTornPacks"
          Effect   = "Allow"
          Action   = ["s3:DeleteObject"]
          Resource = ["${var.data.blobs.arn}/${var.data.blobs.prefix}/packs/*"]
        },
        {
          # The part after autoScalingGroup: is an id that AWS gives; the name is the group's own.
          Sid      = "MindItsGroup"
          Effect   = "Allow"
          Action   = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:SetInstanceProtection"]
          Resource = ["arn:${local.partition}:autoscaling:${local.region}:${local.account}:autoScalingGroup:*:autoScalingGroupName/${fleet.name}"]
        },
        {
          # AWS has no resource level for either of these.
          Sid      = "FindGroupAndSignIn"
          Effect   = "Allow"
          Action   = ["autoscaling:DescribeAutoScalingInstances", "ecr:GetAuthorizationToken"]
          Resource = ["*"]
        },
        {
          Sid      = "Log"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/${var.name}/worker/${key}:*"]
        },
      ],
      [
        for repository in compact([local.repositories[key]]) : {
          Sid      = "PullImage"
          Effect   = "Allow"
          Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
          Resource = [repository]
        }
      ],
      length(local.secrets) == 0 ? [] : [
        {
          Sid      = "ReadSecrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = local.secrets
        }
      ],
      [
        for arn in compact([var.kms_key_arn]) : {
          Sid      = "UseKey"
          Effect   = "Allow"
          Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource = [arn]
        }
      ],
    )
  }
}

resource "aws_iam_role" "workers" {
  for_each = local.fleets

  name        = each.value.name
  description = "Embedding workers, variant ${each.key}"

  permissions_boundary = var.permissions_boundary_arn

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Instances"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
  tags = var.tags
}

resource "aws_iam_role_policy" "workers" {
  for_each = local.fleets

  name   = "worker"
  role   = aws_iam_role.workers[each.key].name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.statements[each.key] })
}

resource "aws_iam_role_policy_attachment" "session_manager" {
  for_each = var.session_manager ? local.fleets : {}

  role       = aws_iam_role.workers[each.key].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_instance_profile" "workers" {
  for_each = local.fleets

  name = each.value.name
  role = aws_iam_role.workers[each.key].name
  tags = var.tags
}
