#!/usr/bin/env bash
# image_tag.sh REGISTRY REPOSITORY DOCKERFILE MODEL BASE_IMAGE: the image that belongs to this source.
# Its tag is a hash of all that goes into it, so that what was built before is found again. Prints
# `tag`, `there` (whether the registry has it), and `arguments` for the build, as step outputs.
set -euo pipefail
registry=$1 repository=$2 dockerfile=$3 model=$4 base=$5

# A tag names another image tomorrow, and then the hash would no longer say what was built.
[[ $base =~ @sha256:[0-9a-f]{64}$ ]] || {
  echo "::error::Set the variable BASE_IMAGE to the images' base by its digest, NAME@sha256:… (docs/pipelines.md); it is \"$base\"" >&2
  exit 1
}
tag=src-$({
  git ls-files --stage -- common webhook workers docker pyproject.toml README.md LICENSE .dockerignore
  printf '%s\n' "$dockerfile" "$model" "$base"
} | sha256sum | cut -c1-40)

if said=$(aws ecr describe-images --registry-id "${registry%%.*}" --repository-name "$repository" \
  --image-ids "imageTag=$tag" 2>&1 >/dev/null); then
  there=true
elif [[ $said == *"(ImageNotFoundException)"* ]]; then
  there=false
else
  echo "$said" >&2
  echo "::error::Whether $repository has $tag could not be asked: is the repository there, and may the role ecr:DescribeImages?" >&2
  exit 1
fi
{
  echo "tag=$tag"
  echo "there=$there"
  echo 'arguments<<END_OF_ARGUMENTS'
  echo "REVISION=${GITHUB_SHA:-unknown}"
  echo "BASE_IMAGE=$base"
  if [[ -n $model ]]; then
    echo 'MODEL_FOLDER=docker/model'
    name=${model%/}
    echo "MODEL_NAME=${name##*/}"
  fi
  echo END_OF_ARGUMENTS
} >>"$GITHUB_OUTPUT"
