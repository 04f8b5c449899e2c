"""What only the process launcher promises: its shims, the kernel's help, and pids that are never mistaken."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from appliance.launchers import procfs
from appliance.launchers.contract import Limits, ReplicaSpec, ReplicaState
from appliance.launchers.errors import StartRefused
from appliance.launchers.process.launcher import ProcessLauncher, ProcessSettings
from appliance.launchers.shim.cgroups import Groups
from tests.launchers import titled
from tests.launchers.workbench import BY_KILL, BY_TERM, FAMILY, Workbench, ended_by, one
from tests.support.processes import Process, ProcessTable, eventually, eventually_async


def _state(bench: Workbench, spec: ReplicaSpec) -> dict[str, object]:
    state: dict[str, object] = json.loads((spec.run_dir / "state.json").read_text())
    return state


def _shim(bench: Workbench, spec: ReplicaSpec) -> int:
    return int(str(_state(bench, spec)["shim_pid"]))


def _exists(path: str) -> bool:
    return Path(path).exists()


@contextmanager
def _bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any replica."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


async def test_a_killed_shim_takes_its_engine_along_and_list_ends_the_rest(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec(FAMILY)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    assert len(bench.engines()) >= 4

    os.kill(_shim(bench, spec), signal.SIGKILL)

    observed = await bench.exited(spec.replica_id)
    assert ended_by(observed) == BY_KILL
    assert observed.exit is not None
    assert observed.exit.last_lines == ("up",)
    assert bench.engines() == []


async def test_what_forgot_its_environment_is_found_by_its_session(process_bench: Workbench) -> None:
    """Shim and engine are killed at once; the engine's child has neither arguments nor an environment any more, and
    the state names no control groups, as where none can be made.
    """
    bench = process_bench
    spec = bench.spec(argv=[sys.executable, titled.__file__])
    await bench.launcher().start(spec)
    child = await _child(bench, spec.replica_id)
    assert (child.arguments, child.environ) == ((), {})
    assert child.session == _state(bench, spec)["engine_pid"]

    with _no_groups(bench, spec):
        for pid in (_shim(bench, spec), child.session):
            os.kill(pid, signal.SIGKILL)

        await bench.exited(spec.replica_id)
        assert not child.is_running()


@contextmanager
def _no_groups(bench: Workbench, spec: ReplicaSpec) -> Iterator[None]:
    state = _state(bench, spec)
    paths = [str(path) for path in state["groups"]] if isinstance(state["groups"], list) else []
    (spec.run_dir / "state.json").write_text(json.dumps(state | {"groups": [], "enforced": []}))
    yield
    Groups(paths, []).remove()


async def _child(bench: Workbench, replica_id: str) -> Process:
    async def printed() -> Process | None:
        lines = await bench.launcher().logs(replica_id)
        return ProcessTable.snapshot().get(int(lines[0])) if lines else None

    child = await eventually_async(printed, 20)
    assert child is not None
    return child


@pytest.mark.parametrize("leader_lives", [True, False])
async def test_a_session_whose_number_changed_hands_is_not_ours(
    process_bench: Workbench, *, leader_lives: bool
) -> None:
    bench = process_bench
    if not leader_lives and not procfs.autogroup(os.getpid()):
        pytest.skip("this kernel does not number its sessions (CONFIG_SCHED_AUTOGROUP)")
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    state = _state(bench, spec)
    with _stranger(leader_lives=leader_lives) as stranger:
        state |= {"phase": "running", "exit": None, "engine_pid": stranger.session}
        (spec.run_dir / "state.json").write_text(json.dumps(state))

        assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.EXITED

        assert stranger.is_running()


@contextmanager
def _stranger(*, leader_lives: bool) -> Iterator[Process]:
    """A process of another session, started after every replica of the test."""
    script = f"sleep 600 >/dev/null & echo $!; {'wait' if leader_lives else ''}"
    command = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, text=True)
    with command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        if not leader_lives:
            command.wait()
        stranger = ProcessTable.snapshot().get(pid)
        assert stranger is not None
        try:
            yield stranger
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_a_shim_that_hangs_does_not_keep_its_engine_alive(process_bench: Workbench) -> None:
    bench = process_bench
    hasty = ProcessLauncher(bench.appliance_id, root=bench.root, settings=ProcessSettings(kill_margin_s=0.5))
    spec = bench.spec(FAMILY)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    os.kill(_shim(bench, spec), signal.SIGSTOP)

    await hasty.stop(spec.replica_id, grace_s=0.1)

    assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.EXITED
    assert bench.engines() == []


async def test_a_pid_that_changed_hands_is_not_ours(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec()
    await bench.launcher().start(spec)
    shim = _shim(bench, spec)
    os.kill(shim, signal.SIGKILL)
    eventually(lambda: procfs.read_process(shim) is None or bench.engines() == [])
    with _bystander() as bystander:
        state = _state(bench, spec)
        state["shim_pid"] = bystander.pid
        (spec.run_dir / "state.json").write_text(json.dumps(state))

        assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.EXITED
        await bench.launcher().stop(spec.replica_id, grace_s=0)

        assert bystander.poll() is None


async def test_a_replica_of_an_earlier_boot_has_exited(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    state = _state(bench, spec)
    with _bystander() as bystander:
        process = procfs.read_process(bystander.pid)
        assert process is not None
        state |= {"phase": "running", "exit": None, "boot_id": "another"}
        state |= {"shim_pid": bystander.pid, "shim_ticks": process.ticks}
        (spec.run_dir / "state.json").write_text(json.dumps(state))

        observed = await one(bench.launcher(), spec.replica_id)

        assert observed.state is ReplicaState.EXITED
        assert ended_by(observed) == (None, None)
        assert bystander.poll() is None


async def test_a_state_that_a_power_failure_cut_is_a_start_to_be_finished(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    (spec.run_dir / "state.json").write_bytes(b"")

    assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.CREATED
    await bench.launcher().start(spec)
    assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.RUNNING


async def test_a_terminated_shim_stops_its_engine(process_bench: Workbench) -> None:
    """As when the whole machine shuts down."""
    bench = process_bench
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    os.kill(_shim(bench, spec), signal.SIGTERM)
    assert ended_by(await bench.exited(spec.replica_id)) == BY_TERM


async def test_the_shim_is_nobodys_child_and_ignores_the_terminal(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    shim = ProcessTable.snapshot().get(_shim(bench, spec))
    assert shim is not None
    assert shim.parent != os.getpid()
    assert shim.session != os.getsid(0)
    os.kill(shim.pid, signal.SIGINT)
    os.kill(shim.pid, signal.SIGHUP)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    assert ended_by(await one(bench.launcher(), spec.replica_id)) == BY_TERM


async def test_a_program_that_is_not_there_is_refused_and_leaves_nothing(process_bench: Workbench) -> None:
    spec = process_bench.spec(argv=["/no/such/program"])
    with pytest.raises(StartRefused, match="/no/such/program: No such file"):
        await process_bench.launcher().start(spec)
    assert await process_bench.launcher().list() == []
    assert not spec.run_dir.exists()


async def test_an_image_is_refused(process_bench: Workbench) -> None:
    with pytest.raises(StartRefused, match="Docker"):
        await process_bench.launcher().start(structs.replace(process_bench.spec(), image="some:image"))


async def test_a_log_never_outgrows_its_two_files(process_bench: Workbench) -> None:
    bench = process_bench
    limit = 100_000
    launcher = ProcessLauncher(bench.appliance_id, root=bench.root, settings=ProcessSettings(log_bytes=limit))
    spec = bench.spec("yes 0123456789012345678901234567890123456789 | head -n 20000; echo end")
    await launcher.start(spec)
    await bench.exited(spec.replica_id)

    sizes = [path.stat().st_size for path in bench.home.joinpath("logs").iterdir()]

    assert len(sizes) == 2
    assert max(sizes) <= limit
    assert (await launcher.logs(spec.replica_id, tail=1)) == ["end"]


async def test_memory_beyond_the_limit_is_told_where_groups_can_be_made(process_bench: Workbench) -> None:
    bench = process_bench
    limits = Limits(memory_bytes=32 * 1024 * 1024)
    spec = bench.spec("exec dd if=/dev/zero of=/dev/null bs=300M count=1", limits=limits)
    await bench.launcher().start(spec)
    observed = await bench.exited(spec.replica_id)
    enforced = _state(bench, spec)["enforced"]
    assert isinstance(enforced, list)
    if "memory" not in enforced:
        pytest.skip("this user may not make memory control groups here")
    assert observed.exit is not None
    assert observed.exit.out_of_memory
    assert ended_by(observed) == BY_KILL
    groups = _state(bench, spec)["groups"]
    assert isinstance(groups, list)
    assert not any(map(_exists, groups))


async def test_the_engine_is_made_a_better_victim_and_dumps_no_core(process_bench: Workbench) -> None:
    bench = process_bench
    spec = bench.spec("cat /proc/self/oom_score_adj; ulimit -c; umask")
    await bench.launcher().start(spec)
    await bench.exited(spec.replica_id)
    assert await bench.launcher().logs(spec.replica_id) == ["500", "0", "0007"]


@pytest.mark.alone
async def test_a_start_is_quick(process_bench: Workbench) -> None:
    """Generous beside what it takes (about 60 ms), so that a busy machine does not fail it."""
    bench = process_bench
    took = []
    for _ in range(5):
        spec = bench.spec()
        began = time.monotonic()
        await bench.launcher().start(spec)
        took.append(time.monotonic() - began)
    assert sorted(took)[2] < 0.5


async def test_many_stop_at_once(process_bench: Workbench) -> None:
    bench = process_bench
    specs = [bench.spec() for _ in range(8)]
    launcher = bench.launcher()
    await asyncio.gather(*(launcher.start(spec) for spec in specs))
    await asyncio.gather(*(launcher.stop(spec.replica_id, grace_s=5) for spec in specs))
    assert {replica.state for replica in await launcher.list()} == {ReplicaState.EXITED}
    assert bench.engines() == []
