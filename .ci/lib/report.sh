# Section headings with timings, running side by side, and waiting on conditions. Sourced, never run.

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

# Process groups of what runs side by side, for a clean-up.
SIDES=()

# side_by_side FUNCTION...: runs them at once, each in a process group of its own, and shows what each said when it
# has ended. Fails when one of them failed, after all have ended.
side_by_side() {
  local name index failed=() logs
  logs=$(mktemp -d)
  set -m
  for name in "$@"; do
    (SECONDS=0; "$name"; echo "($SECONDS s)") >"$logs/$name" 2>&1 &
    SIDES+=($!)
  done
  set +m
  for index in "${!SIDES[@]}"; do
    name=${*:index+1:1}
    wait "${SIDES[index]}" || failed+=("$name")
    printf -- '--- %s\n' "$name"
    cat "$logs/$name"
  done
  SIDES=()
  rm -rf "$logs"
  if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    return 1
  fi
}

# Ends what side_by_side left running when the run was interrupted.
sides_stop() {
  local group
  for group in "${SIDES[@]}"; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
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
