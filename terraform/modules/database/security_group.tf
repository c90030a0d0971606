resource "aws_security_group" "database" {
  name_prefix = "${local.identifier}-"
  description = "PostgreSQL of ${var.name}: clients in, nothing out"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = local.identifier })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "client" {
  for_each = var.client_security_group_ids

  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = var.tags
}
