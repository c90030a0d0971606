output "bucket" {
  description = "Name of the bucket that the files are copied into."
  value       = aws_s3_bucket.files.bucket
}

output "bucket_arn" {
  description = "ARN of that bucket, for the rights of whoever copies."
  value       = local.bucket_arn
}

output "distribution_id" {
  description = "Id of the distribution, for invalidations."
  value       = aws_cloudfront_distribution.files.id
}

output "distribution_arn" {
  description = "ARN of the distribution."
  value       = aws_cloudfront_distribution.files.arn
}

output "url" {
  description = "Where the pages are."
  value       = "https://${coalesce(var.domain, aws_cloudfront_distribution.files.domain_name)}"
}
