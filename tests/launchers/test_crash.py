"""kill -9 of whoever starts or ends a replica, at every point that the launcher names; the points are counted."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter

from appliance.kernel.ids import new_id
from appliance.launchers.contract import ReplicaState
from tests.launchers.workbench import Workbench, one


async def _run(bench: Workbench, action: str, replica_id: str, **environ: str) -> int:
    given = {
        "kind": bench.kind,
        "home": str(bench.home),
        "docker_host": bench.docker_host,
        "appliance_id": bench.appliance_id,
        "replica_id": replica_id,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.launchers.starter", action, json.dumps(given), env={**os.environ, **environ}
    )
    return await asyncio.wait_for(process.wait(), 60)


async def _points(bench: Workbench, action: str, replica_id: str) -> list[str]:
    """What the action passes when it is left alone, each with how often it was passed by then."""
    trace = bench.home / f"{action}.trace"
    assert await _run(bench, action, replica_id, APPLIANCE_CRASH_TRACE=str(trace)) == 0
    passed: Counter[str] = Counter()
    points = []
    for point in trace.read_text().splitlines():
        passed[point] += 1
        points.append(f"{point}#{passed[point]}")
    return points


async def test_a_start_that_is_killed_is_finished_by_the_next(bench: Workbench) -> None:
    points = await _points(bench, "start", new_id("rpl"))
    assert len(points) >= 2
    for point in points:
        replica_id = new_id("rpl")
        killed = await _run(bench, "start", replica_id, APPLIANCE_CRASH_AT=point)
        assert killed == -signal.SIGKILL, point

        found = await one(bench.launcher(), replica_id)
        assert found.state in {ReplicaState.CREATED, ReplicaState.RUNNING}
        await bench.launcher().start(bench.spec(replica_id=replica_id))
        await bench.printed(replica_id, "up")

        assert (await one(bench.launcher(), replica_id)).state is ReplicaState.RUNNING
        assert await bench.launcher().logs(replica_id) == ["up"]
    assert len(await bench.launcher().list()) == len(points) + 1


async def test_an_unfinished_start_can_be_discarded(bench: Workbench) -> None:
    whole, replica_id = new_id("rpl"), new_id("rpl")
    first, *_ = await _points(bench, "start", whole)
    assert await _run(bench, "start", replica_id, APPLIANCE_CRASH_AT=first) == -signal.SIGKILL
    for each in (whole, replica_id):
        await bench.launcher().stop(each, grace_s=5)
        await bench.launcher().remove(each)
    assert await bench.launcher().list() == []
    assert not (bench.root / replica_id).exists()


async def test_an_end_that_is_killed_is_finished_by_the_next(bench: Workbench) -> None:
    first = new_id("rpl")
    await bench.launcher().start(bench.spec(replica_id=first))
    points = await _points(bench, "end", first)
    assert len(points) >= 2
    for point in points:
        replica_id = new_id("rpl")
        await bench.launcher().start(bench.spec(replica_id=replica_id))
        await bench.printed(replica_id, "up")
        assert await _run(bench, "end", replica_id, APPLIANCE_CRASH_AT=point) == -signal.SIGKILL

        await bench.launcher().stop(replica_id, grace_s=5)
        await bench.launcher().remove(replica_id)

        assert await bench.launcher().list() == []
        assert not (bench.root / replica_id).exists()
        assert bench.kept_log(replica_id) == "up\n"
