resource "aws_security_group" "workers" {
  #checkov:skip=CKV2_AWS_5:The workers' launch template is in another module.
  name        = "${var.name}-workers"
  description = "Embedding workers: nobody reaches them, they speak TLS only"
  vpc_id      = aws_vpc.this.id
  tags        = merge(var.tags, { Name = "${var.name}-workers" })
}

resource "aws_vpc_security_group_egress_rule" "workers_tls" {
  # Gateway endpoints and NAT have public addresses; DNS and metadata of the VPC need no rule.
  security_group_id = aws_security_group.workers.id
  description       = "TLS to AWS"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = var.tags
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "Interface endpoints: TLS from inside the VPC"
  vpc_id      = aws_vpc.this.id
  tags        = merge(var.tags, { Name = "${var.name}-endpoints" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoints_tls" {
  security_group_id = aws_security_group.endpoints.id
  description       = "TLS from inside the VPC"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = var.cidr
  tags              = var.tags
}
