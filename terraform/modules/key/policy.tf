# In a key's policy the resource "*" is this key and nothing else.
locals {
  of_this_account = { StringEquals = { "aws:SourceAccount" = local.account } }

  statements = concat(
    [
      {
        # Without it nobody could mend the policy, and no policy of a role would count for the key.
        Sid       = "AccountDecidesByIam"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = local.all_actions
        Resource  = "*"
      },
      {
        Sid       = "LogsEncrypt"
        Effect    = "Allow"
        Principal = { Service = "logs.${local.region}.${data.aws_partition.current.dns_suffix}" }
        Action    = local.log_actions
        Resource  = "*"
        Condition = {
          ArnLike = {
            "kms:EncryptionContext:aws:logs:arn" = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:*"
          }
        }
      },
      {
        # The landing bucket tells the intake's queue, which is encrypted.
        Sid       = "BucketsNotify"
        Effect    = "Allow"
        Principal = { Service = "s3.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = local.of_this_account
      },
      {
        Sid       = "AlarmsAndBudgetsPublish"
        Effect    = "Allow"
        Principal = { Service = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"] }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = local.of_this_account
      },
    ],
    [
      # Not the distribution itself: it is made after its bucket, and the bucket after the key.
      for one in var.cloudfront ? ["this"] : [] : {
        Sid       = "CloudFrontReads"
        Effect    = "Allow"
        Principal = { Service = "cloudfront.amazonaws.com" }
        Action    = ["kms:Decrypt"]
        Resource  = "*"
        Condition = { ArnLike = { "aws:SourceArn" = "arn:${local.partition}:cloudfront::${local.account}:distribution/*" } }
      }
    ],
    [
      for one in var.auto_scaling ? ["this"] : [] : {
        Sid       = "AutoScalingUses"
        Effect    = "Allow"
        Principal = { AWS = local.auto_scaling_role }
        Action    = local.use_actions
        Resource  = "*"
      }
    ],
    [
      for one in var.auto_scaling ? ["this"] : [] : {
        Sid       = "AutoScalingLendsToInstances"
        Effect    = "Allow"
        Principal = { AWS = local.auto_scaling_role }
        Action    = ["kms:CreateGrant"]
        Resource  = "*"
        Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
      }
    ],
  )

  auto_scaling_role = "arn:${local.partition}:iam::${local.account}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"

  use_actions = [
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
  ]

  # What AWS writes as Encrypt*, Decrypt*, ReEncrypt*, GenerateDataKey*, Describe*.
  log_actions = concat(local.use_actions, ["kms:GenerateDataKeyPair", "kms:GenerateDataKeyPairWithoutPlaintext"])

  # All that AWS lets one do with one symmetric key. Grants are how RDS, ECR, DynamoDB and Lambda hold it.
  all_actions = concat(local.log_actions, [
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:CreateGrant",
    "kms:DeleteAlias",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RetireGrant",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
  ])
}
