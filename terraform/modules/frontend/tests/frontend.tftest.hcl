mock_provider "aws" {
  override_during = plan

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = {
      id                          = "files"
      bucket_regional_domain_name = "files.s3.eu-central-1.amazonaws.com"
    }
  }
  mock_resource "aws_cloudfront_distribution" {
    defaults = {
      arn            = "arn:aws:cloudfront::123456789012:distribution/E1"
      domain_name    = "d1.cloudfront.net"
      hosted_zone_id = "Z2FDTNDATAQYW2"
    }
  }
  mock_resource "aws_cloudfront_origin_access_control" {
    defaults = { id = "oac1" }
  }
  mock_resource "aws_cloudfront_response_headers_policy" {
    defaults = { id = "headers1" }
  }
  mock_resource "aws_route53_record" {
    defaults = { fqdn = "_proof.console.example.com" }
  }
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan

  mock_resource "aws_acm_certificate" {
    defaults = {
      arn = "arn:aws:acm:us-east-1:123456789012:certificate/c1"
      domain_validation_options = [{
        domain_name           = "console.example.com"
        resource_record_name  = "_proof.console.example.com"
        resource_record_type  = "CNAME"
        resource_record_value = "_answer.acm-validations.aws"
      }]
    }
  }
  mock_resource "aws_wafv2_web_acl" {
    defaults = { arn = "arn:aws:wafv2:us-east-1:123456789012:global/webacl/front/1" }
  }
}

variables {
  name = "bloomweaver-test"
}

run "nobody_but_the_distribution_reads_the_bucket" {
  command = plan

  assert {
    condition = (aws_s3_bucket_public_access_block.files.block_public_acls && aws_s3_bucket_public_access_block.files.block_public_policy
    && aws_s3_bucket_public_access_block.files.ignore_public_acls && aws_s3_bucket_public_access_block.files.restrict_public_buckets)
    error_message = "The bucket must not be public in any way."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_s3_bucket_policy.files.policy).Statement :
      statement.Principal == { Service = "cloudfront.amazonaws.com" } && statement.Condition == { StringEquals = { "aws:SourceArn" = "arn:aws:cloudfront::123456789012:distribution/E1" } }
      if statement.Effect == "Allow"
    ])
    error_message = "Only this distribution may be let in, not those of other accounts."
  }

  assert {
    condition     = toset([for statement in jsondecode(aws_s3_bucket_policy.files.policy).Statement : statement.Action if statement.Effect == "Allow"]) == toset(["s3:GetObject", "s3:ListBucket"])
    error_message = "CloudFront may read and find out what is missing, and change nothing."
  }

  assert {
    condition = anytrue([
      for statement in jsondecode(aws_s3_bucket_policy.files.policy).Statement :
      statement.Effect == "Deny" && statement.Principal == "*" && length(statement.Resource) == 2
      if try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
    ])
    error_message = "What does not come over TLS must be denied, for the bucket and its files."
  }

  assert {
    condition     = one(aws_cloudfront_distribution.files.origin).origin_access_control_id == "oac1" && aws_cloudfront_origin_access_control.files.signing_behavior == "always"
    error_message = "The distribution must sign its requests to the bucket."
  }
}

run "files_are_versioned_and_encrypted" {
  command = plan

  assert {
    condition     = aws_s3_bucket_versioning.files.versioning_configuration[0].status == "Enabled"
    error_message = "Without versions there is no going back."
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.files.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "Files must be encrypted without a key of one's own, too."
  }

  assert {
    condition     = one(one(aws_s3_bucket_lifecycle_configuration.files.rule).noncurrent_version_expiration).noncurrent_days == 30
    error_message = "Replaced files must go at some time."
  }
}

run "a_given_key_encrypts" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/given"
  }

  assert {
    condition = (one(one(aws_s3_bucket_server_side_encryption_configuration.files.rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
    && one(one(aws_s3_bucket_server_side_encryption_configuration.files.rule).apply_server_side_encryption_by_default).kms_master_key_id == "arn:aws:kms:us-east-1:123456789012:key/given")
    error_message = "The caller's key must encrypt the files."
  }
}

run "browsers_are_told_to_be_careful" {
  command = plan

  variables {
    api_origins = ["https://api.example.com"]
  }

  assert {
    condition = alltrue([
      for rule in ["default-src 'self'", "connect-src 'self' https://api.example.com", "frame-ancestors 'none'", "object-src 'none'"] :
      contains(split("; ", one(one(aws_cloudfront_response_headers_policy.secure.security_headers_config).content_security_policy).content_security_policy), rule)
    ])
    error_message = "Pages may load from their own origin only, call the API and be framed by nobody."
  }

  assert {
    condition     = !strcontains(one(one(aws_cloudfront_response_headers_policy.secure.security_headers_config).content_security_policy).content_security_policy, "unsafe")
    error_message = "Inline scripts must stay forbidden."
  }

  assert {
    condition = (one(one(aws_cloudfront_response_headers_policy.secure.security_headers_config).strict_transport_security).access_control_max_age_sec >= 31536000
      && one(one(aws_cloudfront_response_headers_policy.secure.security_headers_config).frame_options).frame_option == "DENY"
    && one(one(aws_cloudfront_response_headers_policy.secure.security_headers_config).content_type_options).override)
    error_message = "HSTS for a year, no frames, no guessing of types."
  }

  assert {
    condition     = one(aws_cloudfront_distribution.files.default_cache_behavior).response_headers_policy_id == "headers1"
    error_message = "The headers must be on what is answered."
  }

  assert {
    condition     = one(aws_cloudfront_distribution.files.default_cache_behavior).viewer_protocol_policy == "redirect-to-https" && one(aws_cloudfront_distribution.files.default_cache_behavior).compress
    error_message = "Answers must go over TLS, compressed."
  }
}

run "paths_of_the_application_get_its_page" {
  command = plan

  assert {
    condition     = { for page in aws_cloudfront_distribution.files.custom_error_response : page.error_code => "${page.response_code} ${page.response_page_path}" } == { "404" = "200 /index.html" }
    error_message = "A path that is routed in the browser must be answered with the application."
  }
}

run "static_pages_get_a_404" {
  command = plan

  variables {
    single_page = false
  }

  assert {
    condition     = { for page in aws_cloudfront_distribution.files.custom_error_response : page.error_code => "${page.response_code} ${page.response_page_path}" } == { "404" = "404 /404.html" }
    error_message = "What is missing must be a 404."
  }
}

run "without_a_domain_nothing_of_dns" {
  command = plan

  assert {
    condition     = length(aws_acm_certificate.domain) == 0 && length(aws_route53_record.address) == 0 && length(aws_route53_record.validation) == 0
    error_message = "No certificate and no records without a domain."
  }

  assert {
    condition     = output.url == "https://d1.cloudfront.net" && one(aws_cloudfront_distribution.files.viewer_certificate).cloudfront_default_certificate
    error_message = "CloudFront's own name and certificate must serve."
  }
}

run "a_domain_is_certified_and_found" {
  command = plan

  variables {
    domain  = "console.example.com"
    zone_id = "Z1"
  }

  assert {
    condition     = aws_acm_certificate.domain[0].domain_name == "console.example.com" && aws_acm_certificate.domain[0].validation_method == "DNS"
    error_message = "The domain needs a certificate, validated by DNS."
  }

  assert {
    condition     = [for record in aws_route53_record.validation : "${record.zone_id} ${record.name} ${record.type} ${one(record.records)}"] == ["Z1 _proof.console.example.com CNAME _answer.acm-validations.aws"]
    error_message = "The proof must be written into the zone."
  }

  assert {
    condition     = toset([for record in aws_route53_record.address : "${record.type} ${record.name} ${one(record.alias).name}"]) == toset(["A console.example.com d1.cloudfront.net", "AAAA console.example.com d1.cloudfront.net"])
    error_message = "The domain must lead to the distribution, for both kinds of addresses."
  }

  assert {
    condition     = one(aws_cloudfront_distribution.files.viewer_certificate).minimum_protocol_version == "TLSv1.2_2021" && aws_cloudfront_distribution.files.aliases == toset(["console.example.com"])
    error_message = "The domain must be served, with TLS 1.2 or newer."
  }

  assert {
    condition     = output.url == "https://console.example.com"
    error_message = "The url must be the domain's."
  }
}

run "a_domain_without_its_zone_is_refused" {
  command = plan

  variables {
    domain = "console.example.com"
  }

  expect_failures = [aws_acm_certificate.domain[0]]
}

run "the_web_acl_filters_and_limits" {
  command = plan

  assert {
    condition     = aws_wafv2_web_acl.front[0].scope == "CLOUDFRONT" && aws_cloudfront_distribution.files.web_acl_id == aws_wafv2_web_acl.front[0].arn
    error_message = "The web ACL must stand before the distribution."
  }

  assert {
    condition = toset([for rule in aws_wafv2_web_acl.front[0].rule : rule.name]) == toset([
      "rate-limit", "AWSManagedRulesAmazonIpReputationList", "AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"
    ])
    error_message = "It must limit the rate and know bad addresses, common attacks and bad inputs."
  }

  assert {
    condition     = one([for rule in aws_wafv2_web_acl.front[0].rule : one(one(rule.statement).rate_based_statement).limit if rule.name == "rate-limit"]) == 2000
    error_message = "The rate must be limited for each address."
  }

  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.front[0].rule : length(rule.action) == 0 && length(one(rule.override_action).none) == 1 if rule.name != "rate-limit"])
    error_message = "AWS's rules must block, not only count."
  }

  assert {
    condition     = [for rule in aws_wafv2_web_acl.front[0].rule : length(one(rule.action).block) if rule.name == "rate-limit"] == [1]
    error_message = "Who asks too much must be blocked."
  }
}

run "the_web_acl_can_be_left_out" {
  command = plan

  variables {
    waf = false
  }

  assert {
    condition     = length(aws_wafv2_web_acl.front) == 0 && aws_cloudfront_distribution.files.web_acl_id == null
    error_message = "Without it there must be none to pay."
  }
}

run "access_logs_go_where_they_are_wanted" {
  command = plan

  variables {
    access_log_bucket_domain_name = "logs.s3.amazonaws.com"
  }

  assert {
    condition     = one(aws_cloudfront_distribution.files.logging_config).bucket == "logs.s3.amazonaws.com" && !one(aws_cloudfront_distribution.files.logging_config).include_cookies
    error_message = "Access logs must go to the bucket, without cookies."
  }
}

run "an_origin_with_a_path_is_refused" {
  command = plan

  variables {
    api_origins = ["https://api.example.com/v1; script-src *"]
  }

  expect_failures = [var.api_origins]
}
