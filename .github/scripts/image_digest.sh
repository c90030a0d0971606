#!/usr/bin/env bash
# image_digest.sh IMAGE:TAG: prints IMAGE@DIGEST of the manifest for linux/amd64.
# What is pushed is an index, for its provenance and its bill of materials; Lambda takes no index.
set -euo pipefail
image=$1

raw=$(docker buildx imagetools inspect --raw "$image")
digest=$(jq -r '[.manifests[]? | select(.platform.os == "linux" and .platform.architecture == "amd64")][0].digest // empty' <<<"$raw")
if [[ -z $digest ]]; then
  digest=$(docker buildx imagetools inspect --format '{{json .Manifest}}' "$image" | jq -er .digest)
fi
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "no digest of $image: $digest" >&2; exit 1; }
echo "${image%:*}@$digest"
