#!/usr/bin/env bash
# Makes appliance/busybox:latest, two megabytes of shell and tools: what the launchers' tests start and stop.
#
# Use:  images/base/build-busybox.sh    (the daemon is the one DOCKER_HOST names)
set -euo pipefail

IMAGE=appliance/busybox:latest

busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
  echo "$busybox needs libraries; install busybox-static" >&2
  exit 1
fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,etc,proc,sys,dev,tmp,run}
chmod 1777 "$tree/tmp"
cp "$busybox" "$tree/bin/busybox"
while read -r applet; do
  ln -s busybox "$tree/bin/$applet" 2>/dev/null || true # busybox itself is among its applets
done < <("$busybox" --list)
printf 'root:x:0:0:root:/:/bin/sh\nengine:x:10001:10001:engine:/nonexistent:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nengine:x:10001:\n' >"$tree/etc/group"

tar --create --numeric-owner --owner=0 --group=0 --directory "$tree" . |
  docker import --change 'ENV PATH=/bin' --change 'CMD ["/bin/sh"]' - "$IMAGE"
