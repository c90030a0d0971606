"""What is deployed: Terraform, images, workflows, and the system that they make."""
