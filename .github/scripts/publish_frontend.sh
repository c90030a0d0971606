#!/usr/bin/env bash
# publish_frontend.sh FOLDER BUCKET DISTRIBUTION: puts the pages where CloudFront serves them.
# Files with a hash in their name first and for ever (assets/NAME-HASH.EXTENSION, as Vite names them),
# then those that change under their name, then the pages that name all of them, then the cache.
# Former hashed files stay, for pages that are open now, and for the way back.
set -euo pipefail
folder=$1 bucket=$2 distribution=$3

[[ -f $folder/index.html ]] || { echo "there is no $folder/index.html to publish" >&2; exit 1; }
hashed='assets/*-????????.*'
aws s3 sync "$folder" "s3://$bucket" --exclude '*' --include "$hashed" \
  --cache-control 'public, max-age=31536000, immutable'
aws s3 sync "$folder" "s3://$bucket" --exclude "$hashed" --exclude '*.html' \
  --cache-control 'public, max-age=3600'
aws s3 sync "$folder" "s3://$bucket" --exclude '*' --include '*.html' --cache-control no-cache
invalidation=$(aws cloudfront create-invalidation --distribution-id "$distribution" --paths '/*' \
  --query Invalidation.Id --output text)
aws cloudfront wait invalidation-completed --distribution-id "$distribution" --id "$invalidation"
