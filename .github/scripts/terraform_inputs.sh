#!/usr/bin/env bash
# terraform_inputs.sh INSTALLATION FOLDER: what a plan needs beside the committed numbers.
set -euo pipefail
installation=$1 folder=$2

printf '%s\n' "$INSTALLATION_TFVARS" >"$folder/installation.auto.tfvars"
"${BASH_SOURCE%/*}/images_now.sh" "$installation" >"$folder/images.auto.tfvars.json"
