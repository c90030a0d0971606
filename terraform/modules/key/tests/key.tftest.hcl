mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1", name = "eu-central-1" }
  }
}

variables {
  name = "bloomweaver-test"
}

run "the_key_turns_and_is_not_lost_at_once" {
  command = plan

  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.deletion_window_in_days == 30
    error_message = "The key must be rotated, and deleting it must leave time to think."
  }
  assert {
    condition     = aws_kms_alias.this.name == "alias/bloomweaver-test"
    error_message = "A key without a name is not found again."
  }
}

run "nobody_uses_it_for_another_account" {
  command = plan

  assert {
    condition = alltrue([
      for one in jsondecode(aws_kms_key.this.policy).Statement : one.Principal != "*" && try(one.Principal.AWS, "") != "*"
    ])
    error_message = "Nobody is let in unasked."
  }
  assert {
    condition = alltrue([
      for one in jsondecode(aws_kms_key.this.policy).Statement : contains(flatten([for test in values(one.Condition) : values(test)]), "123456789012")
      || anytrue([for value in flatten([for test in values(one.Condition) : values(test)]) : strcontains(value, ":123456789012:")])
      if can(one.Principal.Service)
    ])
    error_message = "A service must use the key on behalf of this account only: others could have it decrypt for them."
  }
  assert {
    condition     = alltrue([for one in jsondecode(aws_kms_key.this.policy).Statement : alltrue([for action in one.Action : !strcontains(action, "*")])])
    error_message = "Actions are named."
  }
}

run "each_service_may_do_what_it_needs" {
  command = plan

  assert {
    condition = {
      for one in jsondecode(aws_kms_key.this.policy).Statement : one.Sid => toset(flatten([one.Principal.Service]))
      if can(one.Principal.Service)
      } == {
      LogsEncrypt             = toset(["logs.eu-central-1.amazonaws.com"])
      BucketsNotify           = toset(["s3.amazonaws.com"])
      AlarmsAndBudgetsPublish = toset(["budgets.amazonaws.com", "cloudwatch.amazonaws.com"])
      CloudFrontReads         = toset(["cloudfront.amazonaws.com"])
    }
    error_message = "Logs, notifications, alarms, budgets and the console's files come to a stop without the key."
  }
  assert {
    condition = alltrue([
      for one in jsondecode(aws_kms_key.this.policy).Statement : length(setsubtract(["kms:Decrypt", "kms:GenerateDataKey"], one.Action)) == 0
      if contains(["LogsEncrypt", "BucketsNotify", "AlarmsAndBudgetsPublish"], one.Sid)
    ])
    error_message = "Who sends something encrypted must make data keys and open them."
  }
  assert {
    condition = one([
      for one in jsondecode(aws_kms_key.this.policy).Statement : one.Condition.ArnLike["kms:EncryptionContext:aws:logs:arn"] if one.Sid == "LogsEncrypt"
    ]) == "arn:aws:logs:eu-central-1:123456789012:log-group:*"
    error_message = "Logs use the key for the log groups of this account."
  }
  assert {
    condition = alltrue([
      for action in ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:Encrypt"] : anytrue([
        for one in jsondecode(aws_kms_key.this.policy).Statement : contains(one.Action, action)
        if try(one.Principal.AWS, "") == "arn:aws:iam::123456789012:root"
      ])
    ])
    error_message = "The account must be able to mend the policy, to lend the key and to remove it."
  }
}

run "auto_scaling_lends_the_key_to_instances" {
  command = plan

  assert {
    condition = [
      for one in jsondecode(aws_kms_key.this.policy).Statement : one.Sid
      if try(one.Principal.AWS, "") == "arn:aws:iam::123456789012:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
    ] == ["AutoScalingUses", "AutoScalingLendsToInstances"]
    error_message = "Without both no instance of a fleet starts."
  }
  assert {
    condition = one([
      for one in jsondecode(aws_kms_key.this.policy).Statement : one.Condition.Bool["kms:GrantIsForAWSResource"] if one.Sid == "AutoScalingLendsToInstances"
    ]) == "true"
    error_message = "It lends to services of AWS and to nobody else."
  }
}

run "a_role_that_is_not_there_is_not_named" {
  command = plan

  variables {
    auto_scaling = false
    cloudfront   = false
  }

  assert {
    condition     = !strcontains(aws_kms_key.this.policy, "AWSServiceRoleForAutoScaling") && !strcontains(aws_kms_key.this.policy, "cloudfront")
    error_message = "AWS refuses a policy that names a role that is not there."
  }
}

run "days_that_aws_refuses" {
  command = plan

  variables {
    deletion_window_days = 31
  }

  expect_failures = [var.deletion_window_days]
}
