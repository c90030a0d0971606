locals {
  tags = merge({ Project = "bloomweaver", Installation = var.name }, var.tags)
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}

# What CloudFront needs lies there: the console's certificate and its web access list.
provider "aws" {
  alias  = "us_east_1"
  region = "us-east-1"

  default_tags {
    tags = local.tags
  }
}
