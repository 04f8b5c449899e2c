#!/usr/bin/env bash
# Builds the image of one runtime on a machine without a registry and without a network for builds.
#
# Use:  images/build.sh RUNTIME [SITE_PACKAGES]
#
# The engine's packages come from a virtual environment that is already there: SITE_PACKAGES, or the one that the
# process launcher uses, in $APPLIANCE_ENGINES__ENVIRONMENTS or $APPLIANCE_HOME/runtimes (default var/runtimes).
# They become part of the image that is handed to the Dockerfile as BASE_IMAGE, below /opt/engine, where the
# Dockerfile makes its virtual environment: its `pip install` finds every requirement met and asks no index. A
# missing or different package therefore fails the build.
#
# The packages go in by `docker import`, because the classic builder writes what it copies three times: 3.4 GB of
# vLLM take 50 s this way and 160 s by COPY.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BASE=${BASE:-appliance/base:bookworm}
PYTHON=python3.11
INSIDE=opt/engine/lib/$PYTHON/site-packages
export DOCKER_BUILDKIT=0

usage() {
  sed -n 's/^# Use:  /use: /p' "$0" >&2
  exit 2
}

# The site-packages of the runtime's virtual environment on this machine.
find_packages() {
  local root=${APPLIANCE_ENGINES__ENVIRONMENTS:-${APPLIANCE_HOME:-var}/runtimes} found
  found=$(compgen -G "$root/$1/lib/$PYTHON/site-packages" || compgen -G "$root/$1/*/lib/$PYTHON/site-packages" || true)
  if [[ -z $found ]]; then
    echo "there is no virtual environment of $1 with $PYTHON below $root" >&2
    return 1
  fi
  head -n 1 <<<"$found"
}

# What identifies an image with packages: the base and the distributions.
fingerprint() {
  local base=$1 site=$2
  { echo "$base" && find "$site" -maxdepth 1 -name '*.dist-info' -printf '%f\n' | sort; } | sha256sum | head -c 12
}

# import_packages SITE TAG: the base's files and the packages as one image.
import_packages() {
  local site=$1 tag=$2 work container
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder as it is named now
  trap "rm -rf '$work'" EXIT
  container=$(docker create "$BASE" true)
  docker export "$container" | tar --extract --directory "$work" --exclude 'dev/*'
  docker rm "$container" >/dev/null
  mkdir -p "$work/$(dirname "$INSIDE")"
  tar --create --numeric-owner --owner=0 --group=0 --exclude '__pycache__/*.pyc.*' \
    --transform "flags=r;s,^site-packages,./$INSIDE," \
    --directory "$work" . --directory "$(realpath "$site/..")" site-packages |
    docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["/bin/bash"]' - "$tag" >/dev/null
}

# build RUNTIME PACKAGES_IMAGE: prints the id of the image.
build() {
  local runtime=$1 base=$2 version
  version=$("$PYTHON" -c 'import sys, tomllib; print(tomllib.load(sys.stdin.buffer)["version"])' \
    <"images/$runtime/runtime.toml")
  docker build --quiet --network none --build-arg "BASE_IMAGE=$base" --tag "appliance/$runtime:$version" \
    --file "images/$runtime/Dockerfile" "images/$runtime"
}

main() {
  (($# == 1 || $# == 2)) || usage
  local runtime=$1 site packages
  [[ -f images/$runtime/Dockerfile ]] || { echo "there is no images/$runtime/Dockerfile" >&2; exit 2; }
  site=${2:-$(find_packages "$runtime")}
  packages="appliance/$runtime-packages:$(fingerprint "$(docker image inspect --format '{{.Id}}' "$BASE")" "$site")"
  if [[ -z $(docker image ls --quiet "$packages") ]]; then
    (import_packages "$site" "$packages")
  fi
  build "$runtime" "$packages"
}

main "$@"
