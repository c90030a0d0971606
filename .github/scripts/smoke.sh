#!/usr/bin/env bash
# smoke.sh INSTALLATION URL NAMESPACE: whether what was deployed works, by doctor and by a canary.
# The operator's secret is a JSON object with BLOOMWEAVER_API_KEY; nothing of it is ever printed.
# SMOKE_SEARCH=auto is for a webhook without a model, which cannot search; else it has to.
# SMOKE_DOCTOR=off leaves out the doctor: where this machine cannot reach what is in a VPC.
set -euo pipefail
installation=$1 url=$2 namespace=$3
[[ -n $url ]] || { echo "the address of the API is not known: set the variable API_URL" >&2; exit 2; }

secret=$(aws secretsmanager get-secret-value --secret-id "$installation/operator" \
  --query SecretString --output text)
while IFS= read -r value; do echo "::add-mask::$value"; done < <(jq -r '.[]' <<<"$secret")
BLOOMWEAVER_API_KEY=$(jq -er .BLOOMWEAVER_API_KEY <<<"$secret")
export BLOOMWEAVER_API_KEY BLOOMWEAVER_URL=$url

if [[ ${SMOKE_DOCTOR:-on} != off ]]; then
  mapfile -t settings < <(aws lambda get-function-configuration --function-name "$installation-webhook" \
    --query Environment.Variables --output json |
    jq -r 'to_entries[] | select(.key | startswith("BLOOMWEAVER_")) | "\(.key)=\(.value)"')
  env "${settings[@]}" bloomweaver doctor --timeout 30
fi
exec bloomweaver canary --namespace "$namespace" --search "${SMOKE_SEARCH:-required}" \
  --timeout-seconds "${CANARY_SECONDS:-900}"
