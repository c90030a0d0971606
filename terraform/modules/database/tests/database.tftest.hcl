mock_provider "aws" {
  override_during = plan

  mock_resource "aws_security_group" {
    defaults = { id = "sg-database" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      endpoint           = "audit.example.us-east-1.rds.amazonaws.com:5432"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1", kms_key_id = "k", secret_status = "active" }]
    }
  }
}

variables {
  name                      = "bloomweaver-test"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-a", "subnet-b"]
  client_security_group_ids = { webhook = "sg-webhook", intake = "sg-intake" }
}

run "out_of_reach_but_for_clients" {
  command = plan

  assert {
    condition     = !aws_db_instance.audit.publicly_accessible && aws_db_subnet_group.private.subnet_ids == toset(["subnet-a", "subnet-b"]) && aws_db_instance.audit.vpc_security_group_ids == toset(["sg-database"])
    error_message = "The database must lie in the private subnets, behind its own security group."
  }

  assert {
    condition = toset([for rule in aws_vpc_security_group_ingress_rule.client : "${rule.referenced_security_group_id} ${rule.ip_protocol} ${rule.from_port}-${rule.to_port}"]) == toset([
      "sg-webhook tcp 5432-5432", "sg-intake tcp 5432-5432"
    ])
    error_message = "The given security groups, and nobody else, may reach PostgreSQL's port."
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.client : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null && rule.security_group_id == "sg-database"])
    error_message = "No addresses may be let in."
  }
}

run "encrypted_at_rest_and_on_the_way" {
  command = plan

  assert {
    condition     = aws_db_instance.audit.storage_encrypted
    error_message = "Storage must be encrypted without a key of one's own, too."
  }

  assert {
    condition     = one([for parameter in aws_db_parameter_group.strict.parameter : parameter.value if parameter.name == "rds.force_ssl"]) == "1" && aws_db_parameter_group.strict.family == "postgres17"
    error_message = "Connections without TLS must be refused."
  }
}

run "the_password_is_in_nobodys_state" {
  command = plan

  assert {
    condition     = aws_db_instance.audit.manage_master_user_password && aws_db_instance.audit.password == null
    error_message = "RDS must make and keep the password."
  }

  assert {
    condition     = output.secret_arn == "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1"
    error_message = "The caller must be told where the password is."
  }
}

run "kept_by_default" {
  command = plan

  assert {
    condition     = aws_db_instance.audit.deletion_protection && !aws_db_instance.audit.skip_final_snapshot && can(regex("^bloomweaver-test-audit-[0-9]{14}$", aws_db_instance.audit.final_snapshot_identifier)) && !aws_db_instance.audit.delete_automated_backups
    error_message = "An audit trail must not be deleted by accident, nor without a last snapshot."
  }

  assert {
    condition     = aws_db_instance.audit.backup_retention_period == 7
    error_message = "It must be backed up."
  }
}

run "thrown_away_when_told_so" {
  command = plan

  variables {
    deletion_protection = false
  }

  assert {
    condition     = !aws_db_instance.audit.deletion_protection && aws_db_instance.audit.skip_final_snapshot && aws_db_instance.audit.delete_automated_backups
    error_message = "Nothing may be left when it is destroyed."
  }
}

run "kept_current_and_watched" {
  command = plan

  variables {
    engine_version     = "16.4"
    log_retention_days = 90
  }

  assert {
    condition     = aws_db_instance.audit.auto_minor_version_upgrade && !aws_db_instance.audit.allow_major_version_upgrade && aws_db_parameter_group.strict.family == "postgres16"
    error_message = "Minor versions come by themselves, major ones never, and parameters fit the version."
  }

  assert {
    condition     = aws_db_instance.audit.performance_insights_enabled && aws_db_instance.audit.enabled_cloudwatch_logs_exports == toset(["postgresql", "upgrade"])
    error_message = "Its load and its logs must be seen."
  }

  assert {
    condition = { for log, group in aws_cloudwatch_log_group.database : group.name => group.retention_in_days } == {
      "/aws/rds/instance/bloomweaver-test-audit/postgresql" = 90
      "/aws/rds/instance/bloomweaver-test-audit/upgrade"    = 90
    }
    error_message = "Logs must end at some time; those that RDS makes by itself never do."
  }
}

run "a_given_key_encrypts_everything" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/given"
  }

  assert {
    condition = alltrue([
      for key in concat([aws_db_instance.audit.kms_key_id, aws_db_instance.audit.performance_insights_kms_key_id, aws_db_instance.audit.master_user_secret_kms_key_id],
      [for group in aws_cloudwatch_log_group.database : group.kms_key_id]) : key == "arn:aws:kms:us-east-1:123456789012:key/given"
    ])
    error_message = "Storage, Performance Insights, password and logs must be encrypted with the caller's key."
  }
}

run "one_subnet_is_refused" {
  command = plan

  variables {
    subnet_ids = ["subnet-a"]
  }

  expect_failures = [var.subnet_ids]
}

run "no_backups_are_refused" {
  command = plan

  variables {
    backup_days = 0
  }

  expect_failures = [var.backup_days]
}
