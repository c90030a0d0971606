mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1", name = "eu-central-1" }
  }
}

variables {
  name = "bloomweaver-test"
}

run "images_are_immutable_scanned_and_encrypted" {
  command = plan

  assert {
    condition     = toset([for repository in aws_ecr_repository.this : repository.name]) == toset(["bloomweaver-test/functions", "bloomweaver-test/worker-cpu", "bloomweaver-test/worker-gpu"])
    error_message = "The product has three images: functions, worker-cpu and worker-gpu."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : repository.image_tag_mutability == "IMMUTABLE"])
    error_message = "A tag must name the same image for ever."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : repository.image_scanning_configuration[0].scan_on_push])
    error_message = "Images must be scanned when they are pushed."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : repository.encryption_configuration[0].encryption_type == "KMS"])
    error_message = "Images must be encrypted with KMS."
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : !repository.force_delete])
    error_message = "Destroying must not remove images unasked."
  }
}

run "old_images_go_and_the_latest_stay" {
  command = plan

  variables {
    kept_images = 5
  }

  assert {
    condition = alltrue([for policy in aws_ecr_lifecycle_policy.this : [
      for rule in jsondecode(policy.policy).rules : rule.selection.countNumber if rule.selection.countType == "imageCountMoreThan"
    ] == [5]])
    error_message = "Exactly the latest images must stay."
  }

  assert {
    condition = alltrue(flatten([for policy in aws_ecr_lifecycle_policy.this : [
      for rule in jsondecode(policy.policy).rules : rule.selection.tagStatus == "tagged" && rule.selection.tagPatternList == ["*"]
      if rule.selection.countType == "imageCountMoreThan"
    ]]))
    error_message = "Images are counted by their tags, whatever those are: a push has parts without one, which would take the places of others."
  }

  assert {
    condition = alltrue([for policy in aws_ecr_lifecycle_policy.this : anytrue([
      for rule in jsondecode(policy.policy).rules : rule.selection.tagStatus == "untagged" && rule.action.type == "expire"
    ])])
    error_message = "Images without a tag must go."
  }
}

run "a_customer_key_encrypts" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = alltrue([for repository in aws_ecr_repository.this : repository.encryption_configuration[0].kms_key == var.kms_key_arn])
    error_message = "The given key must encrypt the images."
  }
}

run "one_image_is_too_few_to_roll_back" {
  command = plan

  variables {
    kept_images = 1
  }

  expect_failures = [var.kept_images]
}

run "lambda_pulls_what_its_functions_run" {
  command = plan

  assert {
    condition     = keys(aws_ecr_repository_policy.lambda) == ["functions"] && output.lambda_repositories == toset(["functions"])
    error_message = "Lambda must pull the functions' image, and has no business with those of the workers."
  }

  assert {
    condition = jsondecode(aws_ecr_repository_policy.lambda["functions"].policy).Statement == [{
      Sid       = "LambdaPulls"
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Condition = { ArnLike = { "aws:SourceArn" = "arn:aws:lambda:eu-central-1:123456789012:function:bloomweaver-test-*" } }
    }]
    error_message = "Only functions of this installation may have Lambda pull, and pull is all it may."
  }
}

run "without_functions_lambda_pulls_nothing" {
  command = plan

  variables {
    repositories = ["worker-cpu"]
  }

  assert {
    condition     = length(aws_ecr_repository_policy.lambda) == 0
    error_message = "What is not there needs no policy."
  }
}
