output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "A subnet for each zone, in the zones' order."
  value       = [for zone in var.availability_zones : aws_subnet.private[zone].id]
}

output "public_subnet_ids" {
  description = "Subnets of the NAT gateways; empty without nat."
  value       = [for zone in keys(local.public_zones) : aws_subnet.public[zone].id]
}

output "worker_security_group_id" {
  description = "Nothing comes in; TLS goes out."
  value       = aws_security_group.workers.id
}

output "endpoint_security_group_id" {
  description = "Of the interface endpoints: TLS comes in from inside the VPC."
  value       = aws_security_group.endpoints.id
}
