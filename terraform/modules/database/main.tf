locals {
  identifier    = "${var.name}-audit"
  port          = 5432
  major_version = split(".", var.engine_version)[0]
  logs          = toset(["postgresql", "upgrade"])
}

resource "aws_db_subnet_group" "private" {
  name        = local.identifier
  description = "Private subnets of ${var.name}"
  subnet_ids  = var.subnet_ids
  tags        = var.tags
}

resource "aws_db_parameter_group" "strict" {
  name_prefix = "${local.identifier}-"
  family      = "postgres${local.major_version}"
  description = "TLS only"
  tags        = var.tags

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "password_encryption"
    value = "scram-sha-256"
  }

  # What changes tables is told in the log; contents are not.
  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  lifecycle {
    create_before_destroy = true
  }
}

# They would be made by RDS otherwise, and kept for ever.
resource "aws_cloudwatch_log_group" "database" {
  #checkov:skip=CKV_AWS_158:a key of the customer's own is an option; CloudWatch encrypts otherwise
  #checkov:skip=CKV_AWS_338:how long is the user's to say
  for_each = local.logs

  name              = "/aws/rds/instance/${local.identifier}/${each.value}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_db_instance" "audit" {
  #checkov:skip=CKV_AWS_157:a second instance is an option; it doubles the price
  #checkov:skip=CKV_AWS_161:tokens of IAM are an option; the product signs in with a password
  #checkov:skip=CKV_AWS_293:on unless it is switched off for what is thrown away
  #checkov:skip=CKV_AWS_118:enhanced monitoring looks at the instance every minute, for a role and logs that cost; Performance Insights is on
  #checkov:skip=CKV_AWS_354:a key of the customer's own is an option; AWS's encrypts otherwise
  identifier        = local.identifier
  engine            = "postgres"
  engine_version    = var.engine_version
  instance_class    = var.instance_class
  db_name           = var.database_name
  port              = local.port
  multi_az          = var.multi_az
  apply_immediately = var.apply_immediately
  tags              = var.tags

  username                            = "bloomweaver"
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.kms_key_arn
  iam_database_authentication_enabled = var.iam_authentication

  storage_type          = "gp3"
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn
  allocated_storage     = var.storage_gb
  max_allocated_storage = max(var.storage_gb, var.max_storage_gb)

  db_subnet_group_name   = aws_db_subnet_group.private.name
  vpc_security_group_ids = [aws_security_group.database.id]
  publicly_accessible    = false
  parameter_group_name   = aws_db_parameter_group.strict.name

  auto_minor_version_upgrade  = true
  allow_major_version_upgrade = false
  maintenance_window          = "sun:04:00-sun:05:00"

  backup_retention_period   = var.backup_days
  backup_window             = "03:00-03:30"
  copy_tags_to_snapshot     = true
  delete_automated_backups  = !var.deletion_protection
  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = !var.deletion_protection
  final_snapshot_identifier = "${local.identifier}-${formatdate("YYYYMMDDhhmmss", plantimestamp())}"

  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = 7
  enabled_cloudwatch_logs_exports       = local.logs

  depends_on = [aws_cloudwatch_log_group.database]

  lifecycle {
    # When it was made: an installation that is made and destroyed again finds no snapshot of that name.
    ignore_changes = [final_snapshot_identifier]
  }
}
