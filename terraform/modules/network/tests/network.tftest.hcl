mock_provider "aws" {
  mock_resource "aws_vpc" {
    defaults = { id = "vpc-0a1b2c3d", owner_id = "123456789012" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/flow" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/bloomweaver-test/flow" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws-test" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }
}

variables {
  name               = "bloomweaver-test"
  availability_zones = ["eu-west-1a", "eu-west-1b"]
}

run "private_by_default" {
  assert {
    condition     = length(aws_subnet.private) == 2 && length(aws_subnet.public) == 0
    error_message = "Each zone has one private subnet, and none is public."
  }
  assert {
    condition     = length(aws_nat_gateway.this) + length(aws_internet_gateway.this) + length(aws_route.nat) == 0
    error_message = "Nothing leads to the internet, and nothing of it costs."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.private : !subnet.map_public_ip_on_launch])
    error_message = "No instance gets a public address."
  }
  assert {
    condition     = aws_subnet.private["eu-west-1a"].cidr_block == "10.20.0.0/20" && aws_subnet.private["eu-west-1b"].cidr_block == "10.20.16.0/20"
    error_message = "Each subnet takes a sixteenth of the VPC."
  }
  assert {
    condition     = length(output.private_subnet_ids) == 2 && length(output.public_subnet_ids) == 0
    error_message = "The outputs name the subnets there are."
  }
}

run "who_reaches_whom" {
  assert {
    condition     = length(aws_default_security_group.closed.ingress) == 0 && length(aws_default_security_group.closed.egress) == 0
    error_message = "The default group has no rules."
  }
  assert {
    condition     = length(aws_security_group.workers.ingress) == 0
    error_message = "Nobody reaches a worker."
  }
  assert {
    condition = alltrue([
      for rule in [aws_vpc_security_group_ingress_rule.endpoints_tls] :
      rule.security_group_id != aws_security_group.workers.id && rule.cidr_ipv4 == "10.20.0.0/16" && rule.from_port == rule.to_port
    ])
    error_message = "What is let in is let in from the VPC, to one port, and never to a worker."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.workers_tls.from_port == 443 && aws_vpc_security_group_egress_rule.workers_tls.to_port == 443 && aws_vpc_security_group_egress_rule.workers_tls.ip_protocol == "tcp"
    error_message = "Workers speak TLS only."
  }
}

run "endpoints" {
  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["autoscaling", "ecr.api", "ecr.dkr", "logs", "sqs"])
    error_message = "What a worker needs without internet, and no endpoint more: each costs."
  }
  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled && endpoint.security_group_ids == toset([aws_security_group.endpoints.id]) && length(endpoint.subnet_ids) == 2])
    error_message = "Interface endpoints answer at the usual names, in every zone, behind their own group."
  }
  assert {
    condition     = toset([for endpoint in aws_vpc_endpoint.gateway : endpoint.service_name]) == toset(["com.amazonaws.eu-west-1.dynamodb", "com.amazonaws.eu-west-1.s3"]) && alltrue([for endpoint in aws_vpc_endpoint.gateway : length(endpoint.route_table_ids) == 2])
    error_message = "DynamoDB and S3 are reached from every private subnet, free of charge."
  }
  assert {
    condition = alltrue([
      for endpoint in concat(values(aws_vpc_endpoint.gateway), values(aws_vpc_endpoint.interface)) :
      jsondecode(endpoint.policy).Statement[0].Condition.StringEquals["aws:PrincipalAccount"] == "123456789012" &&
      !contains(flatten(jsondecode(endpoint.policy).Statement[*].Action), "*")
    ])
    error_message = "Callers of other accounts do not pass, and only named actions do."
  }
  assert {
    condition = alltrue([
      for endpoint in [aws_vpc_endpoint.gateway["s3"], aws_vpc_endpoint.gateway["dynamodb"], aws_vpc_endpoint.interface["sqs"]] :
      jsondecode(endpoint.policy).Statement[0].Condition.StringEquals["aws:ResourceAccount"] == "123456789012"
    ])
    error_message = "No document is carried to another account."
  }
  assert {
    condition     = jsondecode(aws_vpc_endpoint.gateway["s3"].policy).Statement[1].Resource == ["arn:aws-test:s3:::prod-eu-west-1-starport-layer-bucket/*"]
    error_message = "Without ECR's bucket of layers no image is pulled."
  }
}

run "flow_log" {
  variables {
    flow_log_retention_days = 7
    kms_key_arn             = "arn:aws:kms:eu-west-1:123456789012:key/1"

    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/bound"
  }
  assert {
    condition     = aws_iam_role.flow.permissions_boundary == var.permissions_boundary_arn
    error_message = "An account that bounds its roles refuses one without the boundary."
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL" && aws_cloudwatch_log_group.flow.retention_in_days == 7 && aws_cloudwatch_log_group.flow.kms_key_id == var.kms_key_arn
    error_message = "All traffic is logged, kept as long as it was said, with the given key."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.flow.policy).Statement[0].Resource == ["arn:aws:logs:eu-west-1:123456789012:log-group:/bloomweaver-test/flow:*"]
    error_message = "The role writes to this log group only."
  }
}

run "nat_instead_of_endpoints" {
  variables {
    nat = true
  }
  assert {
    condition     = length(aws_vpc_endpoint.interface) == 0 && length(aws_nat_gateway.this) == 1 && length(aws_route.nat) == 2
    error_message = "One NAT gateway serves both zones, and no endpoint costs."
  }
  assert {
    condition     = length(aws_subnet.public) == 2 && alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch])
    error_message = "Public subnets give out no public addresses by themselves."
  }
  assert {
    condition     = length(setintersection([for subnet in aws_subnet.public : subnet.cidr_block], [for subnet in aws_subnet.private : subnet.cidr_block])) == 0
    error_message = "Subnets do not overlap."
  }
}

run "endpoints_beside_nat_where_they_are_named" {
  variables {
    nat                 = true
    interface_endpoints = ["sqs"]
  }
  assert {
    condition     = keys(aws_vpc_endpoint.interface) == ["sqs"] && length(aws_nat_gateway.this) == 1
    error_message = "Who names an endpoint gets it, NAT or not."
  }
}

run "nat_in_each_zone" {
  variables {
    nat              = true
    nat_in_each_zone = true
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 2 && length(aws_eip.nat) == 2
    error_message = "Each zone has a gateway of its own."
  }
}

run "unknown_endpoint" {
  command = plan
  variables {
    interface_endpoints = ["sqss"]
  }
  expect_failures = [var.interface_endpoints]
}

run "too_small_a_range" {
  command = plan
  variables {
    cidr = "10.0.0.0/28"
  }
  expect_failures = [var.cidr]
}
