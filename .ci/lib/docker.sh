# A private Docker daemon: its own socket, data and logs below one folder. Sourced, never run; needs report.sh.
#
# It has neither a bridge nor iptables rules: every container of the project runs with --network none, builds
# included, so that the machine's own network stays as it was.

DOCKERD_PID=""
DOCKERD_DIR=""

# docker_start DIR: returns when the daemon answers; DOCKER_HOST is exported.
docker_start() {
  DOCKERD_DIR=$1
  mkdir -p "$DOCKERD_DIR"
  # Without a terminal or a build kit plug-in the classic builder is the one that every version has.
  export DOCKER_BUILDKIT=0 DOCKER_HOST="unix://$DOCKERD_DIR/docker.sock"
  dockerd \
    --host "$DOCKER_HOST" \
    --data-root "$DOCKERD_DIR/data" \
    --exec-root "$DOCKERD_DIR/exec" \
    --pidfile "$DOCKERD_DIR/dockerd.pid" \
    --bridge none --iptables=false --ip6tables=false --log-level warn \
    </dev/null >"$DOCKERD_DIR/dockerd.log" 2>&1 &
  DOCKERD_PID=$!
  if ! wait_for 60 "$DOCKERD_PID" docker version; then
    docker_print_log
    return 1
  fi
  docker version --format 'Docker {{.Server.Version}}, API {{.Server.APIVersion}}'
}

docker_print_log() {
  [[ -f $DOCKERD_DIR/dockerd.log ]] || return 0
  echo "--- the Docker daemon's last lines" >&2
  tail -n 30 "$DOCKERD_DIR/dockerd.log" >&2
}

# Removes the daemon's containers, ends it and takes its data away.
docker_stop() {
  [[ -n $DOCKERD_PID ]] || return 0
  local pid=$DOCKERD_PID containers
  DOCKERD_PID=""
  containers=$(timeout 20 docker ps --all --quiet || true)
  if [[ -n $containers ]]; then
    # shellcheck disable=SC2086 # a list of ids
    timeout 60 docker rm --force $containers >/dev/null || true
  fi
  stop_process "$pid" TERM 30
  docker_stop_containerd
  unmount_below "$DOCKERD_DIR"
  rm -rf "$DOCKERD_DIR"
}

# containerd is the daemon's child, and is left behind only when the daemon had to be killed.
docker_stop_containerd() {
  local pidfile=$DOCKERD_DIR/exec/containerd/containerd.pid pid
  [[ -f $pidfile ]] || return 0
  pid=$(<"$pidfile")
  if [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == */containerd ]]; then
    kill -KILL "$pid" 2>/dev/null || true
  fi
}

# unmount_below DIR: deepest first, so that removing the folder never reaches through a mount.
unmount_below() {
  local point
  awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
    umount -l "$point" || true
  done
}
