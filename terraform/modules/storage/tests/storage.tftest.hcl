mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }

  override_resource {
    target = aws_s3_bucket.this["blobs"]
    values = {
      id  = "bloomweaver-test-blobs"
      arn = "arn:aws:s3:::bloomweaver-test-blobs"
    }
  }

  override_resource {
    target = aws_s3_bucket.this["landing"]
    values = {
      id  = "bloomweaver-test-landing"
      arn = "arn:aws:s3:::bloomweaver-test-landing"
    }
  }

  override_resource {
    target = aws_s3_bucket.logs["logs"]
    values = {
      id  = "bloomweaver-test-logs"
      arn = "arn:aws:s3:::bloomweaver-test-logs"
    }
  }
}

variables {
  name                = "bloomweaver-test"
  blobs_bucket_name   = "bloomweaver-test-blobs"
  landing_bucket_name = "bloomweaver-test-landing"
  intake_queue_arn    = "arn:aws:sqs:eu-central-1:123456789012:bloomweaver-test-intake"
}

run "buckets_are_closed_versioned_and_encrypted" {
  assert {
    condition     = output.blobs == { bucket = "bloomweaver-test-blobs", arn = "arn:aws:s3:::bloomweaver-test-blobs", prefix = "store" } && output.landing == { bucket = "bloomweaver-test-landing", arn = "arn:aws:s3:::bloomweaver-test-landing" }
    error_message = "The other modules look buckets up in this shape."
  }

  assert {
    condition     = toset([for versioning in aws_s3_bucket_versioning.this : versioning.bucket if versioning.versioning_configuration[0].status == "Enabled"]) == toset(["bloomweaver-test-blobs", "bloomweaver-test-landing"])
    error_message = "Without versions the product never removes old blobs."
  }

  assert {
    condition     = toset([for encryption in aws_s3_bucket_server_side_encryption_configuration.this : encryption.bucket if one(encryption.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"]) == toset(["bloomweaver-test-blobs", "bloomweaver-test-landing"])
    error_message = "Without a customer's key S3 encrypts with its own."
  }

  assert {
    condition = toset([
      for block in aws_s3_bucket_public_access_block.this : block.bucket
      if block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets
    ]) == toset(["bloomweaver-test-blobs", "bloomweaver-test-landing"])
    error_message = "No bucket may become public."
  }

  assert {
    condition     = toset([for ownership in aws_s3_bucket_ownership_controls.this : ownership.bucket if ownership.rule[0].object_ownership == "BucketOwnerEnforced"]) == toset(["bloomweaver-test-blobs", "bloomweaver-test-landing"])
    error_message = "Access lists must count for nothing."
  }

  assert {
    condition = { for policy in aws_s3_bucket_policy.this : policy.bucket => jsondecode(policy.policy).Statement } == {
      for bucket in ["bloomweaver-test-blobs", "bloomweaver-test-landing"] : bucket => [{
        Sid       = "RefuseWithoutTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = ["arn:aws:s3:::${bucket}", "arn:aws:s3:::${bucket}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }]
    }
    error_message = "Every bucket must refuse requests without TLS, and let nobody in."
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : !bucket.force_destroy])
    error_message = "Destroying must not remove documents unasked."
  }
}

run "blobs_grow_cold_and_what_was_replaced_goes" {
  assert {
    condition = {
      for rule in aws_s3_bucket_lifecycle_configuration.blobs.rule : rule.filter[0].prefix =>
      { for transition in rule.transition : transition.storage_class => transition.days } if length(rule.transition) > 0
    } == { "store/raw/" = { STANDARD_IA = 30, GLACIER_IR = 90 } }
    error_message = "Contents, and nothing else, must move to colder classes."
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.blobs.transition_default_minimum_object_size == "all_storage_classes_128K"
    error_message = "Objects for which a colder class costs more than it saves must stay."
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.blobs.rule : rule.noncurrent_version_expiration[0].noncurrent_days
      if try(rule.status == "Enabled" && rule.filter[0].prefix == "store/" && rule.expiration[0].expired_object_delete_marker, false)
    ] == [7]
    error_message = "Versions of superseded packs must go, and the markers over them."
  }

  assert {
    condition = alltrue([
      for configuration in [aws_s3_bucket_lifecycle_configuration.blobs, aws_s3_bucket_lifecycle_configuration.landing] : [
        for rule in configuration.rule : rule.abort_incomplete_multipart_upload[0].days_after_initiation
        if rule.status == "Enabled" && length(rule.abort_incomplete_multipart_upload) > 0
      ] == [3]
    ])
    error_message = "Uploads that were never finished must go."
  }

  assert {
    condition = alltrue([
      for rule in concat(aws_s3_bucket_lifecycle_configuration.blobs.rule, aws_s3_bucket_lifecycle_configuration.landing.rule) :
      alltrue([for expiration in rule.expiration : expiration.days == null || expiration.days == 0])
    ])
    error_message = "No rule may remove current objects unasked."
  }
}

run "small_contents_can_stay" {
  variables {
    raw_transition_minimum_bytes = 1048576
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.blobs.rule : "${rule.filter[0].and[0].prefix} above ${rule.filter[0].and[0].object_size_greater_than}" if length(rule.transition) > 0
    ] == ["store/raw/ above 1048575"]
    error_message = "Contents of the given size and more, and nothing else, must move."
  }
}

run "the_intake_is_told_of_files_put_and_removed" {
  assert {
    condition     = aws_s3_bucket_notification.landing.bucket == "bloomweaver-test-landing" && alltrue([for queue in aws_s3_bucket_notification.landing.queue : queue.queue_arn == var.intake_queue_arn])
    error_message = "The landing bucket must notify the intake queue."
  }

  assert {
    condition = { for queue in aws_s3_bucket_notification.landing.queue : queue.filter_prefix => toset(queue.events) } == {
      "incoming/"  = toset(["s3:ObjectCreated:*"])
      "processed/" = toset(["s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"])
    }
    error_message = "Files put into incoming and removed from processed must be told of, by either kind of removal."
  }
}

run "processed_files_can_expire" {
  variables {
    processed_expiration_days = 14
    failed_expiration_days    = 60
  }

  assert {
    condition = {
      for rule in aws_s3_bucket_lifecycle_configuration.landing.rule : rule.filter[0].prefix => rule.expiration[0].days if can(regex("^(processed|failed)-files-go$", rule.id))
    } == { "processed/" = 14, "failed/" = 60 }
    error_message = "Files that were worked off must go when asked."
  }
}

run "a_customer_key_encrypts" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition = alltrue([
      for encryption in aws_s3_bucket_server_side_encryption_configuration.this : one(encryption.rule).bucket_key_enabled
      && one(encryption.rule).apply_server_side_encryption_by_default[0] == { sse_algorithm = "aws:kms", kms_master_key_id = var.kms_key_arn }
    ])
    error_message = "The given key must encrypt both buckets, with a bucket key to save calls."
  }
}

run "access_logs_go_to_a_bucket_of_their_own" {
  variables {
    access_log_bucket_name = "bloomweaver-test-logs"
  }

  assert {
    condition     = { for key, logging in aws_s3_bucket_logging.this : logging.bucket => "${logging.target_bucket}/${logging.target_prefix}" } == { bloomweaver-test-blobs = "bloomweaver-test-logs/blobs/", bloomweaver-test-landing = "bloomweaver-test-logs/landing/" }
    error_message = "Both buckets must log."
  }

  assert {
    condition = [for statement in jsondecode(aws_s3_bucket_policy.logs["logs"].policy).Statement : statement if statement.Effect == "Allow"] == [{
      Sid       = "OurBucketsLog"
      Effect    = "Allow"
      Principal = { Service = "logging.s3.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = "arn:aws:s3:::bloomweaver-test-logs/*"
      Condition = {
        ArnEquals    = { "aws:SourceArn" = ["arn:aws:s3:::bloomweaver-test-blobs", "arn:aws:s3:::bloomweaver-test-landing"] }
        StringEquals = { "aws:SourceAccount" = "123456789012" }
      }
    }]
    error_message = "S3 alone may write access logs, of our buckets alone."
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.logs["logs"].restrict_public_buckets && aws_s3_bucket_lifecycle_configuration.logs["logs"].rule[0].expiration[0].days == 90
    error_message = "Access logs must be closed to the public, and go in the end."
  }
}

run "contents_never_move_to_where_they_cannot_be_read" {
  command = plan

  variables {
    raw_transitions = [{ days = 30, storage_class = "DEEP_ARCHIVE" }]
  }

  expect_failures = [var.raw_transitions]
}
