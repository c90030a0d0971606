#!/usr/bin/env bash
# plan_images.sh INSTALLATION <PLAN.json: refuses a plan that was made with other images than those
# that are remembered now: a deployment came between the two, and applying would take it back.
set -euo pipefail
installation=$1

planned=$(jq -S '.variables.images.value // {}')
now=$("${BASH_SOURCE%/*}/images_now.sh" "$installation" | jq -S .images)
[[ $planned != "$now" ]] || exit 0
echo "::error::Since this plan was made an image was deployed, which applying it would take back: start the workflow terraform again. (Images are told by parameters only: INSTALLATION_TFVARS may not set any.)" >&2
diff <(echo "$planned") <(echo "$now") >&2 || true
exit 1
