output "blobs" {
  description = "Bucket, ARN and prefix of contents and packs, for BLOOMWEAVER_BLOBS_URL=s3://BUCKET/PREFIX."
  value = {
    bucket = aws_s3_bucket.this["blobs"].bucket
    arn    = aws_s3_bucket.this["blobs"].arn
    prefix = local.prefix
  }
}

output "landing" {
  description = "Bucket and ARN of the landing zone, for BLOOMWEAVER_LANDING_URL=s3://BUCKET."
  value = {
    bucket = aws_s3_bucket.this["landing"].bucket
    arn    = aws_s3_bucket.this["landing"].arn
  }
}

output "access_log_bucket" {
  description = "Name of the bucket of access logs; null if there is none."
  value       = one([for bucket in aws_s3_bucket.logs : bucket.bucket])
}
