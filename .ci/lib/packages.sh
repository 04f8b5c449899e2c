# Debian packages that a bare machine lacks. Sourced, never run.

# install_missing NEED=PACKAGE...: installs the packages of those needs that the machine does not meet. A need
# is a command, a path with wildcards, or module:NAME or header:NAME of the machine's Python.
install_missing() {
  local pair missing=()
  for pair in "$@"; do
    is_there "${pair%%=*}" || missing+=("${pair#*=}")
  done
  if ((${#missing[@]} == 0)); then
    echo "nothing is missing"
    return
  fi
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "installing: ${missing[*]}"
  without_starting_services apt_get update
  without_starting_services apt_get install --yes --no-install-recommends "${missing[@]}"
}

is_there() {
  case $1 in
    module:*) python3 -c "import ${1#module:}" 2>/dev/null ;;
    header:*) [[ -e $(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)/${1#header:} ]] ;;
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# What apt says is shown only when it fails. The machine can be made again, so dpkg need not wait for its disk.
apt_get() {
  local log status=0
  log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o DPkg::Options::=--force-unsafe-io "$@" \
    </dev/null >"$log" 2>&1 || status=$?
  ((status == 0)) || cat "$log" >&2
  rm -f "$log"
  return "$status"
}

# Debian starts a service when its package is configured. The run starts its own, private ones, and must not
# leave a daemon of the machine behind.
without_starting_services() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  "$@" || status=$?
  rm -f "$policy"
  return "$status"
}
