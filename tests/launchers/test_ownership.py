"""Whose process it is that holds a device's memory: told by descent, by marker, by control group."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.launchers import procfs
from appliance.launchers.contract import ObservedReplica, ReplicaState
from appliance.launchers.ownership import pids_of
from tests.support.waiting import eventually

GONE = 4194303
"""A pid that no process has: the largest that the kernel gives, less one."""
SLEEPER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0)
print(child.pid, flush=True)
child.wait()
"""


def observed(handle: str, replica_id: str = "rpl_1", state: ReplicaState = ReplicaState.RUNNING) -> ObservedReplica:
    return ObservedReplica(replica_id=replica_id, labels={}, state=state, handle=handle, started_at=1.0)


@contextmanager
def family(**environment: str) -> Iterator[tuple[int, int]]:
    """A process and its child, which end with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        try:
            yield parent.pid, int(parent.stdout.readline())
        finally:
            parent.stdin.close()


def test_what_a_shim_started_is_ours() -> None:
    with family() as (parent, child), family() as (stranger, _):
        handle = f"{parent}:{procfs.read_process(parent).ticks}:boot"  # type: ignore[union-attr]
        assert pids_of([observed(handle)], [parent, child, stranger, 1]) == {parent, child}
        assert pids_of([observed(handle, state=ReplicaState.EXITED)], [child]) == set()


def test_what_left_its_shim_is_known_by_its_marker() -> None:
    with family(APPLIANCE_REPLICA="rpl_7") as (_, child):
        # While a program begins, the kernel shows no environment of it for a moment.
        eventually(lambda: pids_of([observed(f"{GONE}:1:boot", "rpl_7")], [child]) == {child})
        assert pids_of([observed(f"{GONE}:1:boot", "rpl_8")], [child]) == set()


def test_who_is_gone_is_nobodys() -> None:
    assert pids_of([observed("f" * 64)], [GONE]) == set()
    assert pids_of([], []) == set()


@pytest.mark.parametrize("group", ["/docker/{}", "/system.slice/docker-{}.scope"])
def test_a_container_is_known_by_its_control_group(tmp_path: Path, group: str) -> None:
    """As the host sees it: cgroup v1 with Docker's own driver, v2 with systemd's."""
    for pid, container in ((GONE, "a" * 64), (GONE - 1, "b" * 64)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(f"0::{group.format(container)}\n")
    assert pids_of([observed("a" * 64)], [GONE, GONE - 1], proc=tmp_path) == {GONE}
