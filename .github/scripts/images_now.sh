#!/usr/bin/env bash
# images_now.sh INSTALLATION: prints {"images": …}, those whose deployment passed its canary, as
# Terraform's variable has them: by what is behind /INSTALLATION/images/, such as functions/webhook.
set -euo pipefail
path=/$1/images/

aws ssm get-parameters-by-path --path "${path%/}" --recursive --output json |
  jq --arg path "$path" \
    '{images: [.Parameters[] | {key: (.Name | ltrimstr($path)), value: .Value}] | from_entries}'
