# Section headings with timings, and waiting on conditions. Sourced, never run.

SECTION_NAMES=()
SECTION_SECONDS=()
SECTION_STARTED=0

# section NAME: closes the running section and opens the next one.
section() {
  section_end
  SECTION_NAMES+=("$1")
  SECTION_STARTED=$SECONDS
  printf '\n=== %s (at %d s)\n' "$1" "$SECONDS"
}

section_end() {
  local open=${#SECTION_NAMES[@]}
  ((open > ${#SECTION_SECONDS[@]})) || return 0
  SECTION_SECONDS+=($((SECONDS - SECTION_STARTED)))
}

# The table of sections, for the end of a run.
print_timings() {
  section_end
  local index
  printf '\n=== Timings\n'
  for index in "${!SECTION_NAMES[@]}"; do
    printf '%6d s  %s\n' "${SECTION_SECONDS[index]}" "${SECTION_NAMES[index]}"
  done
  printf '%6d s  all\n' "$SECONDS"
}

# wait_for DEADLINE_S PID COMMAND...: until COMMAND succeeds. Fails at the deadline, and at once when the
# process that COMMAND asks about has gone.
wait_for() {
  local deadline=$((SECONDS + $1)) pid=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      echo "gave up waiting for: $*" >&2
      return 1
    fi
    if ! kill -0 "$pid" 2>/dev/null; then
      echo "process $pid ended while waiting for: $*" >&2
      return 1
    fi
    sleep 0.1
  done
}

# stop_process PID SIGNAL DEADLINE_S: asks a child of this shell to end, and kills it at the deadline.
stop_process() {
  local pid=$1 signal=$2 deadline=$((SECONDS + $3))
  kill "-$signal" "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
    sleep 0.1
  done
  if kill -KILL "$pid" 2>/dev/null; then
    echo "process $pid ignored SIG$signal and was killed" >&2
  fi
  wait "$pid" 2>/dev/null || true
}
