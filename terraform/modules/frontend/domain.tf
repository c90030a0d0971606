locals {
  domains = var.domain == null ? toset([]) : toset([var.domain])
}

resource "aws_acm_certificate" "domain" {
  provider = aws.us_east_1
  count    = var.domain == null ? 0 : 1

  domain_name       = var.domain
  validation_method = "DNS"
  tags              = var.tags

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = var.zone_id != null
      error_message = "A domain needs the zone_id of its Route 53 hosted zone."
    }
  }
}

resource "aws_route53_record" "validation" {
  for_each = local.domains

  zone_id         = var.zone_id
  name            = one([for option in aws_acm_certificate.domain[0].domain_validation_options : option.resource_record_name if option.domain_name == each.value])
  type            = one([for option in aws_acm_certificate.domain[0].domain_validation_options : option.resource_record_type if option.domain_name == each.value])
  records         = [one([for option in aws_acm_certificate.domain[0].domain_validation_options : option.resource_record_value if option.domain_name == each.value])]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "domain" {
  provider = aws.us_east_1
  count    = var.domain == null ? 0 : 1

  certificate_arn         = aws_acm_certificate.domain[0].arn
  validation_record_fqdns = [for record in aws_route53_record.validation : record.fqdn]
}

resource "aws_route53_record" "address" {
  for_each = var.domain == null ? toset([]) : toset(["A", "AAAA"])

  zone_id = var.zone_id
  name    = var.domain
  type    = each.value

  alias {
    name                   = aws_cloudfront_distribution.files.domain_name
    zone_id                = aws_cloudfront_distribution.files.hosted_zone_id
    evaluate_target_health = false
  }
}
