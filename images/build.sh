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

# The site-packages of the runtime's newest complete environment on this machine.
find_packages() {
  local root=${APPLIANCE_ENGINES__ENVIRONMENTS:-${APPLIANCE_HOME:-var}/runtimes} stamp
  # shellcheck disable=SC2012 # names of ours: hexadecimal digests
  stamp=$(ls -t "$root/$1"/*/.complete 2>/dev/null | head -n 1 || true)
  if [[ -z $stamp ]]; then
    echo "there is no complete environment of $1 below $root" >&2
    return 1
  fi
  echo "${stamp%/.complete}/lib/$PYTHON/site-packages"
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
  # pip itself stays out: only a pip that `python -m venv` installs there has a command.
  tar --create --numeric-owner --owner=0 --group=0 \
    --exclude site-packages/pip --exclude 'site-packages/pip-*.dist-info' \
    --transform "flags=r;s,^site-packages,./$INSIDE," \
    --directory "$work" . --directory "$(realpath "$site/..")" site-packages |
    docker import --change 'ENV LANG=C.UTF-8 PIP_NO_INDEX=1' --change 'CMD ["/bin/bash"]' - "$tag" >/dev/null
}

# The image's name as services use it unless told otherwise.
default_image() {
  "$PYTHON" -c '
import sys, tomllib
spec = tomllib.load(sys.stdin.buffer)
print(spec["docker"]["repository"] + ":" + spec["engine_version"])
' <"images/$1/runtime.toml"
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
  docker build --quiet --network none --build-arg "BASE_IMAGE=$packages" --tag "$(default_image "$runtime")" \
    "images/$runtime"
}

main "$@"
