#!/usr/bin/env bash
# Makes the base image appliance/base:bookworm out of Debian packages, for machines without a registry.
#
# Use:  images/base/build.sh            (as root; the daemon is the one DOCKER_HOST names)
#
# The file tree is kept as a tarball in $APPLIANCE_CACHE (default ~/.cache/appliance), so that a second daemon
# gets the image within seconds. Delete the tarball to have the packages' updates.
set -euo pipefail

SUITE=bookworm
IMAGE=appliance/base:$SUITE
# python3: the engines. ca-certificates: their TLS. libgomp1, libnuma1: what the engines' wheels load from the
# system. A debootstrap tree has no other way to get packages: images are built without a network.
PACKAGES=python3,python3-venv,ca-certificates,libgomp1,libnuma1
CACHE=${APPLIANCE_CACHE:-$HOME/.cache/appliance}

# The mirror that apt is set up with, whichever of apt's formats it is written in.
# shellcheck disable=SC2016 # the formats are apt's own
mirror() {
  local found
  found=$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
    awk -F'|' -v suite="$SUITE" '$2 == suite && $3 == "main" { print $1; exit }')
  if [[ -z $found ]]; then
    # Before the first `apt-get update` the release's names are unknown; its first main index will do.
    found=$(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' |
      awk -F'|' -v suite="$SUITE" '$2 == suite && $3 == "main" { print $1; exit }')
  fi
  if [[ -z $found ]]; then
    echo "apt is not set up for Debian $SUITE: the base image cannot be made here" >&2
    return 1
  fi
  echo "$found"
}

# Says what goes into the tree: a change of it makes another tarball and another image.
recipe() {
  { printf '%s %s ' "$SUITE" "$PACKAGES" && dpkg --print-architecture && cat "$0"; } | sha256sum | head -c 12
}

# make_tree TARBALL
make_tree() {
  local tarball=$1 work
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder as it is named now
  trap "rm -rf '$work'" EXIT
  debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$work/tree" "$(mirror)" >"$work/log" 2>&1 || {
    tail -n 40 "$work/log" >&2
    return 1
  }
  # What no engine reads: package lists and archives, documentation, translations, logs.
  rm -rf "$work"/tree/var/{cache/apt,lib/apt/lists,log}/* "$work"/tree/usr/share/{doc,man,info,locale}/*
  # The build machine's addresses and name servers are no part of an image.
  : >"$work/tree/etc/hostname"
  : >"$work/tree/etc/resolv.conf"
  printf 'engine:x:10001:10001:engine:/nonexistent:/usr/sbin/nologin\n' >>"$work/tree/etc/passwd"
  printf 'engine:x:10001:\n' >>"$work/tree/etc/group"
  tar --create --numeric-owner --one-file-system --directory "$work/tree" --file "$tarball.$$" .
  mv "$tarball.$$" "$tarball"
}

main() {
  local recipe tarball
  recipe=$(recipe)
  tarball=$CACHE/base-$SUITE-$recipe.tar
  if docker image ls --quiet --no-trunc --filter "label=appliance.base=$recipe" "$IMAGE" | grep .; then
    return
  fi
  mkdir -p "$CACHE"
  exec 9>"$tarball.lock" # two builds at once make one tree
  flock 9
  if [[ ! -f $tarball ]]; then
    (make_tree "$tarball")
  fi
  flock --unlock 9
  docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["/bin/bash"]' --change "LABEL appliance.base=$recipe" \
    "$tarball" "$IMAGE"
}

main "$@"
