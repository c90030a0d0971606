resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:KMS is used either way; the check wants a customer managed key, which kms_key_arn gives and which costs a dollar a month.
  for_each = var.repositories

  name                 = "${var.name}/${each.key}"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = var.force_delete
  tags                 = var.tags

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.kms_key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each = aws_ecr_repository.this

  repository = each.value.name
  policy     = jsonencode({ rules = local.lifecycle_rules })
}

# A push is an index with a tag and, without one, what the index names: the image, its provenance and
# its bill of materials. So what counts is what has a tag. Neither rule takes a part of an index
# that is kept: ECR refuses that (ImageReferencedByManifestList).
locals {
  lifecycle_rules = [
    {
      rulePriority = 1
      description  = "Remove images without a tag after ${var.untagged_days} days"
      selection = {
        tagStatus   = "untagged"
        countType   = "sinceImagePushed"
        countUnit   = "days"
        countNumber = var.untagged_days
      }
      action = { type = "expire" }
    },
    {
      rulePriority = 2
      description  = "Keep the latest ${var.kept_images} images that have a tag"
      selection = {
        tagStatus      = "tagged"
        tagPatternList = ["*"]
        countType      = "imageCountMoreThan"
        countNumber    = var.kept_images
      }
      action = { type = "expire" }
    },
  ]
}
