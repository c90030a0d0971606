locals {
  origin_id = "files"
  # AWS's own policy "CachingOptimized": gzip and brotli, no cookies, no query strings.
  caching_optimized = "658327ea-f89d-4fab-a63d-7e88639e58f6"

  content_security_policy = join("; ", [
    "default-src 'self'",
    join(" ", concat(["connect-src 'self'"], var.api_origins)),
    "img-src 'self' data:",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "upgrade-insecure-requests",
  ])
}

resource "aws_cloudfront_origin_access_control" "files" {
  name                              = "${var.name}-frontend"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_response_headers_policy" "secure" {
  #checkov:skip=CKV_AWS_259:preloading is a promise for a whole domain, which is for its owner to give
  name = "${var.name}-frontend"

  security_headers_config {
    content_security_policy {
      content_security_policy = local.content_security_policy
      override                = true
    }
    content_type_options {
      override = true
    }
    frame_options {
      frame_option = "DENY"
      override     = true
    }
    referrer_policy {
      referrer_policy = "strict-origin-when-cross-origin"
      override        = true
    }
    strict_transport_security {
      access_control_max_age_sec = 63072000
      include_subdomains         = true
      preload                    = false
      override                   = true
    }
  }
}

resource "aws_cloudfront_distribution" "files" {
  #checkov:skip=CKV_AWS_68:the web ACL is an option that is on unless it is switched off
  #checkov:skip=CKV2_AWS_47:AWSManagedRulesKnownBadInputsRuleSet, which blocks Log4j's lookups, is in the web ACL
  #checkov:skip=CKV_AWS_86:access logs are an option: they need a bucket of the user's
  #checkov:skip=CKV_AWS_310:files of one bucket need no second origin
  #checkov:skip=CKV_AWS_374:whoever may use the console may be anywhere
  #checkov:skip=CKV_AWS_174:TLSv1.2_2021 is set with a domain; CloudFront's own certificate takes no minimum
  #checkov:skip=CKV2_AWS_42:a certificate of one's own comes with a domain, which is an option
  comment             = "${var.name} console"
  enabled             = true
  is_ipv6_enabled     = true
  http_version        = "http2and3"
  default_root_object = "index.html"
  price_class         = var.price_class
  aliases             = var.domain == null ? [] : [var.domain]
  web_acl_id          = var.waf ? aws_wafv2_web_acl.front[0].arn : null
  tags                = var.tags

  origin {
    origin_id                = local.origin_id
    domain_name              = aws_s3_bucket.files.bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.files.id
  }

  default_cache_behavior {
    target_origin_id           = local.origin_id
    viewer_protocol_policy     = "redirect-to-https"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    compress                   = true
    cache_policy_id            = local.caching_optimized
    response_headers_policy_id = aws_cloudfront_response_headers_policy.secure.id
  }

  custom_error_response {
    error_code            = 404
    response_code         = var.single_page ? 200 : 404
    response_page_path    = var.single_page ? "/index.html" : "/404.html"
    error_caching_min_ttl = 10
  }

  dynamic "logging_config" {
    for_each = var.access_log_bucket_domain_name == null ? [] : [var.access_log_bucket_domain_name]

    content {
      bucket          = logging_config.value
      prefix          = "${var.name}/"
      include_cookies = false
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = var.domain == null
    acm_certificate_arn            = var.domain == null ? null : aws_acm_certificate_validation.domain[0].certificate_arn
    ssl_support_method             = var.domain == null ? null : "sni-only"
    minimum_protocol_version       = var.domain == null ? "TLSv1" : "TLSv1.2_2021"
  }
}
