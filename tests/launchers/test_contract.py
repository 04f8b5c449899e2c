"""What every launcher does; each test runs on each of them."""

import asyncio
import os
import signal
import sys
import time

import pytest
from msgspec import structs

from appliance.launchers.contract import ReplicaState
from appliance.launchers.errors import ReplicaRunning, ReplicaUnknown, StartRefused
from appliance.launchers.paths import host_socket
from tests.launchers.workbench import BY_KILL, BY_TERM, DEAF, FAMILY, Workbench, ended_by, one
from tests.support.docker import BASE_IMAGE, require_image
from tests.support.processes import eventually

_GREETER = """
import os, socket
with socket.socket(socket.AF_UNIX) as server:
    server.bind(os.environ["SOCKET"])
    server.listen()
    print("listening")
    connection, _ = server.accept()
    connection.sendall(b"hello from the engine")
    connection.close()
"""


async def test_start_runs_one_engine_that_a_fresh_launcher_finds(bench: Workbench) -> None:
    spec = bench.spec()
    before = time.time()
    handle = await bench.launcher().start(spec)

    found = await one(bench.launcher(), spec.replica_id)

    assert (found.state, found.handle, found.exit) == (ReplicaState.RUNNING, handle, None)
    assert dict(found.labels) == dict(spec.labels)
    assert before - 1 <= found.started_at <= time.time() + 1


async def test_start_of_a_running_replica_gives_its_handle(bench: Workbench) -> None:
    spec = bench.spec()
    handle = await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    engines = {process.pid for process in bench.engines()}

    assert await bench.launcher().start(spec) == handle
    assert {process.pid for process in bench.engines()} == engines


async def test_concurrent_starts_make_one_engine(bench: Workbench) -> None:
    spec = bench.spec()
    handles = await asyncio.gather(*(bench.launcher().start(spec) for _ in range(4)))

    assert len(set(handles)) == 1
    assert len(await bench.launcher().list()) == 1
    await bench.printed(spec.replica_id, "up")
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    assert await bench.launcher().logs(spec.replica_id) == ["up"]


async def test_a_replica_that_has_run_is_not_run_again(bench: Workbench) -> None:
    spec = bench.spec("echo once")
    handle = await bench.launcher().start(spec)
    await bench.exited(spec.replica_id)

    assert await bench.launcher().start(spec) == handle
    assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.EXITED
    assert await bench.launcher().logs(spec.replica_id) == ["once"]


async def test_the_engine_sees_its_layout_and_nobody_elses_environment(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_SECRET", "hidden")
    spec = bench.spec('cat "$MODEL/config.json"; echo; echo x > "$SOCKET"; echo x > "$CACHE/kept"; env; pwd')
    await bench.launcher().start(spec)
    await bench.exited(spec.replica_id)

    lines = await bench.launcher().logs(spec.replica_id)

    assert lines[0] == "{}"
    assert (spec.run_dir / "engine.sock").exists()
    assert (bench.cache_dir / "kept").exists()
    assert not [line for line in lines if "CONTROL_PLANE" in line or "hidden" in line]
    names = {line.partition("=")[0] for line in lines[1:-1]}
    assert {"PATH", "HOME", "LANG", "SOCKET", "MODEL", "CACHE"} <= names
    assert names.isdisjoint(os.environ.keys() - {"PATH", "HOME", "LANG", "PWD", "SHLVL", "OLDPWD", "HOSTNAME", "_"})


async def test_the_engines_socket_is_reached_from_the_host(bench: Workbench, request: pytest.FixtureRequest) -> None:
    """Without a network in between; the one who connects here may be another user than the engine."""
    python, image = sys.executable, BASE_IMAGE
    if bench.kind == "docker":
        python, image = "python3", require_image(request.getfixturevalue("docker_images"), BASE_IMAGE)
    spec = bench.spec(argv=(python, "-u", "-c", _GREETER), image=image)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "listening")

    reader, writer = await asyncio.open_unix_connection(host_socket(spec.run_dir))

    assert await reader.read() == b"hello from the engine"
    writer.close()
    await writer.wait_closed()


async def test_stop_asks_first(bench: Workbench) -> None:
    # The shell waits for its child before it runs the trap; `wait` is what a signal interrupts.
    spec = bench.spec('trap "echo bye; exit 3" TERM; echo up; sleep 600 & wait')
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")

    await bench.launcher().stop(spec.replica_id, grace_s=20)

    stopped = await one(bench.launcher(), spec.replica_id)
    assert stopped.state is ReplicaState.EXITED
    assert ended_by(stopped) == (3, None)
    assert (await bench.launcher().logs(spec.replica_id))[-1] == "bye"
    assert bench.engines() == []


async def test_stop_kills_what_does_not_listen(bench: Workbench) -> None:
    spec = bench.spec(DEAF)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "deaf")
    began = time.monotonic()

    await bench.launcher().stop(spec.replica_id, grace_s=0.5)

    assert time.monotonic() - began >= 0.5
    assert ended_by(await one(bench.launcher(), spec.replica_id)) == BY_KILL
    assert bench.engines() == []


async def test_stop_ends_an_engine_that_hangs(bench: Workbench) -> None:
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    for process in bench.engines():
        os.kill(process.pid, signal.SIGSTOP)

    await bench.launcher().stop(spec.replica_id, grace_s=0.2)

    assert (await one(bench.launcher(), spec.replica_id)).state is ReplicaState.EXITED
    assert bench.engines() == []


async def test_a_second_stop_may_shorten_the_grace(bench: Workbench) -> None:
    spec = bench.spec(DEAF)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "deaf")
    patient = asyncio.create_task(bench.launcher().stop(spec.replica_id, grace_s=600))

    await bench.launcher().stop(spec.replica_id, grace_s=0)

    await asyncio.wait_for(patient, 20)
    assert ended_by(await one(bench.launcher(), spec.replica_id)) == BY_KILL


async def test_stop_is_idempotent_and_absence_is_fine(bench: Workbench) -> None:
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    await bench.launcher().stop("rpl_unheard-of", grace_s=5)
    assert ended_by(await one(bench.launcher(), spec.replica_id)) == BY_TERM


async def test_stop_leaves_no_descendant(bench: Workbench) -> None:
    spec = bench.spec(FAMILY)
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    assert len([process for process in bench.engines() if "sleep" in process.command_line]) >= 4

    await bench.launcher().stop(spec.replica_id, grace_s=5)

    assert bench.engines() == []


async def test_an_engine_that_ends_leaves_no_descendant(bench: Workbench) -> None:
    spec = bench.spec("setsid sleep 600 & (setsid sleep 600 &) ; sleep 600 & echo gone; exit 0")
    await bench.launcher().start(spec)

    assert ended_by(await bench.exited(spec.replica_id)) == (0, None)
    assert bench.engines() == []


async def test_an_exit_is_told_with_code_time_and_last_words(bench: Workbench) -> None:
    spec = bench.spec("exec 2>&1; for i in $(seq 1 30); do echo line $i; done; echo why >&2; exit 7")
    before = time.time()
    await bench.launcher().start(spec)

    observed = await bench.exited(spec.replica_id)

    assert ended_by(observed) == (7, None)
    assert observed.exit is not None
    assert not observed.exit.out_of_memory
    assert before - 1 <= observed.exit.at <= time.time() + 1
    assert len(observed.exit.last_lines) == 20
    assert {"line 30", "why"} <= set(observed.exit.last_lines)


async def test_logs_stay_after_exit_and_after_removal(bench: Workbench) -> None:
    spec = bench.spec("echo one; echo two; echo three")
    await bench.launcher().start(spec)
    await bench.exited(spec.replica_id)
    assert await bench.launcher().logs(spec.replica_id) == ["one", "two", "three"]
    assert await bench.launcher().logs(spec.replica_id, tail=2) == ["two", "three"]

    await bench.launcher().remove(spec.replica_id)

    assert spec.log_path.read_text() == "one\ntwo\nthree\n"
    assert not spec.run_dir.exists()
    assert await bench.launcher().list() == []


async def test_follow_tells_new_lines_until_the_end(bench: Workbench) -> None:
    spec = bench.spec('echo old; while ! [ -e "$CACHE/go" ]; do sleep 0.05; done; echo new; echo last')
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "old")
    lines = bench.launcher().follow(spec.replica_id)
    first = asyncio.ensure_future(anext(lines))
    # The reader has to have taken its place before there is something new.
    done, _ = await asyncio.wait({first}, timeout=1)
    assert not done

    (bench.cache_dir / "go").touch()

    assert [await first, *[line async for line in lines]] == ["new", "last"]


async def test_remove_refuses_a_running_replica_and_is_idempotent(bench: Workbench) -> None:
    spec = bench.spec()
    await bench.launcher().start(spec)
    with pytest.raises(ReplicaRunning):
        await bench.launcher().remove(spec.replica_id)
    await bench.launcher().stop(spec.replica_id, grace_s=5)
    await bench.launcher().remove(spec.replica_id)
    await bench.launcher().remove(spec.replica_id)


async def test_stats_tell_of_cpu_memory_and_processes(bench: Workbench) -> None:
    spec = bench.spec("echo up; while :; do :; done")
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    launcher = bench.launcher()
    first = await launcher.stats(spec.replica_id)

    assert first.memory_bytes > 0
    assert first.pids >= 1
    while (await launcher.stats(spec.replica_id)).cpu_seconds <= first.cpu_seconds:
        pass  # bounded by the test's own time limit
    await launcher.stop(spec.replica_id, grace_s=5)
    assert (await launcher.stats(spec.replica_id)).pids == 0


async def test_what_is_not_there_is_unknown(bench: Workbench) -> None:
    launcher = bench.launcher()
    with pytest.raises(ReplicaUnknown):
        await launcher.logs("rpl_unheard-of")
    with pytest.raises(ReplicaUnknown):
        await launcher.stats("rpl_unheard-of")
    with pytest.raises(ReplicaUnknown):
        await anext(launcher.follow("rpl_unheard-of"))


async def test_a_model_that_is_not_there_is_refused_and_leaves_nothing(bench: Workbench) -> None:
    spec = structs.replace(bench.spec(), model_dir=bench.home / "nowhere")
    with pytest.raises(StartRefused, match="nowhere"):
        await bench.launcher().start(spec)
    assert await bench.launcher().list() == []
    assert not spec.run_dir.exists()


async def test_a_socket_path_that_the_kernel_would_cut_is_refused(bench: Workbench) -> None:
    bench.home.joinpath("x" * 80).mkdir()
    deep = Workbench(bench.kind, bench.home / ("x" * 80), bench.docker_host)
    with pytest.raises(StartRefused, match="107"):
        await deep.launcher().start(deep.spec())


async def test_a_spec_of_another_appliance_is_a_defect(bench: Workbench) -> None:
    spec = bench.spec()
    with pytest.raises(ValueError, match="labels"):
        await bench.launcher().start(structs.replace(spec, labels={**spec.labels, "appliance": "another"}))


async def test_another_appliances_replicas_are_not_seen(bench: Workbench) -> None:
    other = Workbench(bench.kind, bench.home, bench.docker_host)
    spec = other.spec()
    await other.launcher().start(spec)
    assert await bench.launcher().list() == []
    await other.launcher().stop(spec.replica_id, grace_s=5)
    await other.launcher().remove(spec.replica_id)


async def test_an_interrupt_at_the_terminal_does_not_reach_the_engine(bench: Workbench) -> None:
    spec = bench.spec()
    await bench.launcher().start(spec)
    await bench.printed(spec.replica_id, "up")
    mine = os.getsid(0)
    assert [process for process in bench.engines() if process.session == mine] == []
    assert eventually(lambda: len(bench.engines())) >= 1
