"""A worker's status: readers never see half a change."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.status import StatusWriter, read_status


def test_status_tells_what_was_written(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path / "worker-0")
    first, second = writer.claim("rpl_1"), writer.claim("rpl_2")
    writer.set_in_flight(first, 3, 4)
    writer.set_in_flight(second, 1, 4)
    writer.applied(7, "")
    writer.set_connections(9)

    status = read_status(tmp_path / "worker-0")

    assert (status.pid, status.start_ticks) == (os.getpid(), wire.start_ticks(os.getpid()))
    assert (status.applied_version, status.in_flight_total, status.connections, status.draining) == (7, 4, 9, False)
    assert status.replicas == {"rpl_1": (3, 0), "rpl_2": (1, 0)}
    writer.release(first)
    assert read_status(tmp_path / "worker-0").replicas == {"rpl_2": (1, 0)}
    assert writer.claim("rpl_3") == first
    assert 0 <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - status.heartbeat < 60e9


def test_readers_never_see_half_a_change(tmp_path: Path) -> None:
    """The writer keeps `rpl_a` in flight as long as a version below 1000 is told."""
    path = tmp_path / "worker-0"
    script = """
import sys
from pathlib import Path
from appliance.gateway.plane.status import StatusWriter
writer = StatusWriter(Path(sys.argv[1]))
print("ready", flush=True)
version = 0
while True:
    version += 1
    names = [writer.claim(f"rpl_{version}_{n}") for n in range(20)]
    for entry in names:
        writer.set_in_flight(entry, version, version)
    writer.applied(version, f"error {version}" * 5)
    for entry in names:
        writer.release(entry)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        seen = 0
        for _ in range(3000):
            try:
                status = read_status(path)
            except ValueError:
                continue  # the writer was never still for long enough: told, not guessed
            seen += 1
            assert status.error in ("", f"error {status.applied_version}" * 5)
            assert all(name.startswith("rpl_") for name in status.replicas)
        assert seen > 0
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 300_000])
def test_file_that_is_no_status(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "worker-0").write_bytes(content)
    with pytest.raises(ValueError, match="not a worker's status"):
        read_status(tmp_path / "worker-0")
