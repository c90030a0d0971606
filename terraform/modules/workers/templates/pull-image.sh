#!/bin/bash
# Pulls an image, after signing in where it is one of ECR. The AMI has Docker and curl, but no AWS CLI,
# and a subnet without internet has no place to install it from: curl signs the one request itself.
set -euo pipefail

image=$1
metadata=${BLOOMWEAVER_METADATA:-http://169.254.169.254}/latest

field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }

sign_in() {
  local host=$1 domain=$2
  local region=${domain%%.*} token role keys answer
  token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token")
  role=$(curl -fsS -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/iam/security-credentials/")
  keys=$(curl -fsS -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/iam/security-credentials/$role")
  # The keys go by standard input: arguments are seen by every process.
  answer=$(curl -fsS --retry 3 --config - --aws-sigv4 "aws:amz:$region:ecr" --data '{}' \
    -H 'Content-Type: application/x-amz-json-1.1' \
    -H 'X-Amz-Target: AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken' \
    "${BLOOMWEAVER_ECR:-https://api.ecr.$domain}/" <<CONFIG
user = "$(field AccessKeyId <<<"$keys"):$(field SecretAccessKey <<<"$keys")"
header = "X-Amz-Security-Token: $(field Token <<<"$keys")"
CONFIG
  )
  field authorizationToken <<<"$answer" | base64 --decode | sed 's/^AWS://' |
    docker login --username AWS --password-stdin "$host"
}

if [[ $image =~ ^([0-9]{12}\.dkr\.ecr\.([^/]+))/ ]]; then
  sign_in "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
fi
exec docker pull "$image"
