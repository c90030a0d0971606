locals {
  account = aws_vpc.this.owner_id

  # With NAT the same addresses are reached without an endpoint.
  usual_endpoints     = var.nat ? [] : ["autoscaling", "ecr.api", "ecr.dkr", "logs", "sqs"]
  interface_endpoints = var.interface_endpoints == null ? toset(local.usual_endpoints) : var.interface_endpoints

  # What passes each endpoint. The roles say what each caller may do with it.
  actions = {
    "autoscaling" = ["autoscaling:CompleteLifecycleAction", "autoscaling:DescribeAutoScalingInstances", "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:SetInstanceProtection"]
    "dynamodb"    = ["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:DeleteItem", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]
    "ec2messages" = ["ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint", "ec2messages:GetMessages", "ec2messages:SendReply"]
    "ecr.api"     = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer"]
    "ecr.dkr"     = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer"]
    "kms"         = ["kms:Decrypt", "kms:GenerateDataKey"]
    "logs"        = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    "monitoring"  = ["cloudwatch:PutMetricData"]
    "s3" = [
      "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetBucketVersioning", "s3:GetObject",
      "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions", "s3:PutObject",
    ]
    "secretsmanager" = ["secretsmanager:GetSecretValue"]
    "sqs"            = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:SendMessage"]
    "ssm" = [
      "ssm:DescribeAssociation", "ssm:DescribeDocument", "ssm:GetDeployablePatchSnapshotForInstance", "ssm:GetDocument", "ssm:GetManifest",
      "ssm:GetParameter", "ssm:GetParameters", "ssm:ListAssociations", "ssm:ListInstanceAssociations", "ssm:PutComplianceItems",
      "ssm:PutConfigurePackageResult", "ssm:PutInventory", "ssm:UpdateAssociationStatus", "ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation",
    ]
    "ssmmessages" = ["ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
    "sts"         = ["sts:AssumeRole", "sts:GetCallerIdentity"]
  }

  # Where documents lie: nothing is carried to another account's queue, bucket or table.
  holds_data = ["dynamodb", "s3", "secretsmanager", "sqs"]

  # ECR's answers name layers in a bucket of AWS, with a signature in the address instead of a caller.
  image_layers = [{
    Sid       = "ImageLayers"
    Effect    = "Allow"
    Principal = "*"
    Action    = ["s3:GetObject"]
    Resource  = ["arn:${data.aws_partition.current.partition}:s3:::prod-${data.aws_region.current.id}-starport-layer-bucket/*"]
  }]

  endpoint_policies = {
    for service, actions in local.actions : service => jsonencode({
      Version = "2012-10-17"
      Statement = concat([{
        # Any resource that the caller's own role lets it use; whose it is, the conditions say.
        Sid       = "OwnAccount"
        Effect    = "Allow"
        Principal = "*"
        Action    = actions
        Resource  = ["*"]
        Condition = {
          StringEquals = merge(
            { "aws:PrincipalAccount" = local.account },
            contains(local.holds_data, service) ? { "aws:ResourceAccount" = local.account } : {},
          )
        }
      }], service == "s3" ? local.image_layers : [])
    })
  }
}

# Free of charge, whatever else there is.
resource "aws_vpc_endpoint" "gateway" {
  for_each = toset(["dynamodb", "s3"])

  vpc_id            = aws_vpc.this.id
  vpc_endpoint_type = "Gateway"
  service_name      = "com.amazonaws.${data.aws_region.current.id}.${each.key}"
  route_table_ids   = [for table in aws_route_table.private : table.id]
  policy            = local.endpoint_policies[each.key]
  tags              = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_endpoints

  vpc_id              = aws_vpc.this.id
  vpc_endpoint_type   = "Interface"
  service_name        = "com.amazonaws.${data.aws_region.current.id}.${each.key}"
  subnet_ids          = [for subnet in aws_subnet.private : subnet.id]
  security_group_ids  = [aws_security_group.endpoints.id]
  private_dns_enabled = true
  policy              = local.endpoint_policies[each.key]
  tags                = merge(var.tags, { Name = "${var.name}-${each.key}" })
}
