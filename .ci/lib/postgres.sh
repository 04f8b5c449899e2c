# A private PostgreSQL server on a unix socket. Sourced, never run; needs report.sh.
#
# PostgreSQL refuses to run as root, so that as root it runs as `nobody` in a folder of that user's. Trust
# authentication is safe there: nobody else can enter the folder of the socket but root.

POSTGRES_PID=""
POSTGRES_DIR=""

# The folder of the newest server's programs; Debian keeps them off PATH.
postgres_bin() {
  local found
  found=$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | sort -V | tail -n 1 || true)
  if [[ -z $found ]]; then
    found=$(readlink -f "$(command -v postgres)")
  fi
  dirname "$found"
}

# What a server's command is prefixed with: it must be the background job itself, whose id is kept.
POSTGRES_AS=()
((EUID != 0)) || POSTGRES_AS=(setpriv --reuid=nobody --regid=nogroup --clear-groups)

# postgres_start DIR: returns when the server answers; sets POSTGRES_URL, which has a superuser's rights.
# shellcheck disable=SC2034 # POSTGRES_URL is the caller's
postgres_start() {
  local bin
  POSTGRES_DIR=$1
  bin=$(postgres_bin)
  mkdir -p "$POSTGRES_DIR"
  ((EUID != 0)) || chown nobody:nogroup "$POSTGRES_DIR"
  chmod 0700 "$POSTGRES_DIR"
  env --chdir="$POSTGRES_DIR" "${POSTGRES_AS[@]}" "$bin/initdb" --pgdata "$POSTGRES_DIR/data" --auth trust \
    --username appliance --encoding UTF8 --locale C.UTF-8 --no-sync >"$POSTGRES_DIR.log" 2>&1
  postgres_serve "$bin"
  if ! wait_for 60 "$POSTGRES_PID" "$bin/pg_isready" --host "$POSTGRES_DIR" --username appliance --dbname postgres; then
    postgres_print_log
    return 1
  fi
  POSTGRES_URL="postgresql+asyncpg://appliance@/postgres?host=$POSTGRES_DIR"
  "$bin/postgres" --version
}

# Test data need not survive a power cut: without fsync the tests run several times faster.
postgres_serve() {
  local bin=$1
  env --chdir="$POSTGRES_DIR" "${POSTGRES_AS[@]}" "$bin/postgres" -D "$POSTGRES_DIR/data" \
    -c listen_addresses= -c unix_socket_directories="$POSTGRES_DIR" \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200 \
    </dev/null >"$POSTGRES_DIR.log" 2>&1 &
  POSTGRES_PID=$!
}

postgres_print_log() {
  [[ -f $POSTGRES_DIR.log ]] || return 0
  echo "--- PostgreSQL's last lines" >&2
  tail -n 30 "$POSTGRES_DIR.log" >&2
}

# A fast shutdown: sessions are cut, the server ends in order.
postgres_stop() {
  [[ -n $POSTGRES_PID ]] || return 0
  local pid=$POSTGRES_PID
  POSTGRES_PID=""
  stop_process "$pid" INT 20
  rm -rf "$POSTGRES_DIR" "$POSTGRES_DIR.log"
}
