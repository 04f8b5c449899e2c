"""The supervisor is kept running, alone and detached, and stopped with everything below it. With the real one."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.gateway import metrics, processes
from appliance.gateway.acknowledgements import Acknowledgements
from appliance.gateway.keeper import GatewayKeeper
from appliance.gateway.plane.wire import LISTENERS_SHARD, ListenersShard, SnapshotWriter
from tests.support.processes import ProcessTable, eventually_async

WORKERS = 2


@pytest.fixture
def home(tmp_path: Path) -> Path:
    writer = SnapshotWriter(tmp_path / "gateway" / "snapshot")
    writer.publish({LISTENERS_SHARD: ListenersShard([], workers=WORKERS)})
    return tmp_path


class Plane:
    """The data plane under a home, as /proc shows it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.acknowledgements = Acknowledgements(home)

    def pids(self, module: str = "appliance.gateway.plane") -> set[int]:
        return {
            process.pid
            for process in ProcessTable.snapshot().mentioning(str(self.home))
            if module in process.command_line and not process.is_zombie
        }

    def supervisors(self) -> set[int]:
        return self.pids(processes.SUPERVISOR)

    def workers(self) -> set[int]:
        return self.pids(processes.WORKER)

    async def runs(self, keeper: GatewayKeeper) -> int:
        """Reconcile until all is there; the supervisor's pid."""

        async def complete() -> int | None:
            pid = (await keeper.reconcile()).pid
            live = self.acknowledgements.live_workers()
            ready = len(live) == WORKERS and all(worker.applied_version for worker in live)
            return pid if ready and {worker.pid for worker in live} == self.workers() else None

        return await eventually_async(complete, 20, message="a supervisor and its workers run") or 0


@pytest.fixture
def plane(home: Path) -> Plane:
    return Plane(home)


@pytest.fixture
async def keeper(home: Path, plane: Plane) -> AsyncIterator[GatewayKeeper]:
    keeper = GatewayKeeper(home, drain_s=2)
    yield keeper
    await keeper.stop(5)
    assert plane.pids() == set()


async def test_one_supervisor_is_started_and_found_again(home: Path, keeper: GatewayKeeper, plane: Plane) -> None:
    pid = await plane.runs(keeper)
    assert plane.supervisors() == {pid}
    after_restart = GatewayKeeper(home, drain_s=2)
    status = await after_restart.reconcile()
    assert (status.pid, status.starts) == (pid, 0)
    assert os.getsid(pid) == pid, "it has a session of its own, so Ctrl-C does not reach it"


async def test_two_keepers_at_once_end_in_one_supervisor(home: Path, keeper: GatewayKeeper, plane: Plane) -> None:
    other = GatewayKeeper(home, drain_s=2)
    await asyncio.gather(keeper.reconcile(), other.reconcile())
    pid = await plane.runs(keeper)

    async def other_agrees() -> bool:
        return (await other.reconcile()).pid == pid and plane.supervisors() == {pid}

    await eventually_async(other_agrees, 10, message="one supervisor is left")
    await other.stop(5)


async def test_killed_supervisor_is_replaced_and_its_workers_go_on(keeper: GatewayKeeper, plane: Plane) -> None:
    first = await plane.runs(keeper)
    workers = plane.workers()
    os.kill(first, signal.SIGKILL)
    await eventually_async(lambda: _gone(plane, first), 5)
    second = await plane.runs(keeper)
    assert second != first
    assert plane.workers() == workers


async def _gone(plane: Plane, pid: int) -> bool:
    return pid not in plane.supervisors()


async def test_stop_ends_workers_whose_supervisor_is_gone(keeper: GatewayKeeper, plane: Plane) -> None:
    os.kill(await plane.runs(keeper), signal.SIGKILL)
    await keeper.stop(5)
    assert plane.pids() == set()


async def test_stop_kills_what_hangs(keeper: GatewayKeeper, plane: Plane) -> None:
    pid = await plane.runs(keeper)
    for hung in (pid, *plane.workers()):
        os.kill(hung, signal.SIGSTOP)
    await keeper.stop(0.2)
    assert plane.pids() == set()


async def test_stop_right_after_start_leaves_nothing(keeper: GatewayKeeper, plane: Plane) -> None:
    await keeper.reconcile()
    await keeper.stop(5)
    assert plane.pids() == set()


async def test_nothing_is_started_after_stop(keeper: GatewayKeeper, plane: Plane) -> None:
    await plane.runs(keeper)
    await keeper.stop(5)
    assert (await keeper.reconcile()).pid is None
    assert plane.pids() == set()


async def test_no_secret_is_inherited(keeper: GatewayKeeper, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", "postgresql://appliance:canary@db/appliance")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    await plane.runs(keeper)
    table = ProcessTable.snapshot()
    for pid in plane.pids():
        process = table.get(pid)
        assert process is not None
        assert "canary" not in " ".join(process.environ.values())


async def test_log_is_bounded(keeper: GatewayKeeper, plane: Plane, home: Path) -> None:
    await plane.runs(keeper)
    log = home / "logs" / "gateway" / "supervisor.log"
    assert "supervisor.started" in log.read_text()
    await GatewayKeeper(home, drain_s=2, largest_log=10).reconcile()
    assert log.stat().st_size <= 10
    assert "supervisor.started" in log.with_suffix(".log.1").read_text()


async def test_pid_file_of_another_process_is_not_believed(home: Path) -> None:
    (home / "run").mkdir()
    (home / "run" / "supervisor.pid").write_text(f"{os.getpid()}\n")
    (home / "run" / "worker-0.pid").write_text(f"{os.getpid()}\n")
    assert processes.supervisor(home) is None
    assert processes.workers(home) == []


async def test_metrics_of_all_workers_are_joined(home: Path, keeper: GatewayKeeper, plane: Plane) -> None:
    assert await metrics.exposition(home) == ""
    await plane.runs(keeper)
    text = await metrics.exposition(home)
    assert 'appliance_gateway_snapshot_version{worker="0"} 1' in text
    assert 'appliance_gateway_snapshot_version{worker="1"} 1' in text
    assert text.count("# TYPE appliance_gateway_snapshot_version gauge") == 1
