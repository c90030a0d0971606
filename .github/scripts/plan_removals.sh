#!/usr/bin/env bash
# plan_removals.sh <PLAN.json: refuses a plan that removes functions or fleets. One without their
# images would: what has no image is not made, and is taken away where it is.
# ALLOW_REMOVALS=true lets it pass, where that is what is wanted.
set -euo pipefail

removed=$(jq -r '.resource_changes[]? | select(.change.actions == ["delete"]) |
  select(.type == "aws_lambda_function" or .type == "aws_autoscaling_group") | "  " + .address')
[[ -n $removed && ${ALLOW_REMOVALS:-} != true ]] || exit 0
cat >&2 <<END
::error::This plan removes functions or fleets. Their images may be missing: each is to be in a parameter /INSTALLATION/images/… (docs/pipelines.md, Images and Terraform). Where they are to go, set the variable ALLOW_REMOVALS of the environment E-plan to true.
$removed
END
exit 1
