#!/usr/bin/env bash
# own_image.sh REPOSITORY IMAGE: refuses an image that is not of this repository, or not by its
# digest: another installation's, or another role's.
set -euo pipefail
repository=$1 image=$2

host='[0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?'
[[ $image =~ ^$host/(.+)@sha256:[0-9a-f]{64}$ && ${BASH_REMATCH[2]} == "$repository" ]] || {
  echo "::error::$image is none of $repository: HOST/$repository@sha256:… is needed" >&2
  exit 1
}
