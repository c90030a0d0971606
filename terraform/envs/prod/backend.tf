# The rest is in backend.hcl, made from backend.hcl.example: terraform init -backend-config=backend.hcl
terraform {
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}
