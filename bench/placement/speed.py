"""How long decisions take on a generated fleet that is kept in a database, with services on it.

One decision: the snapshot is read, a replica's place is sought on it; its lease is taken outside of the figure, and an
older replica's is given back, so that the next decision reads what changed. A replan: the replicas of 500 services at
once, in a thread, while a task of the event loop measures for how long it is kept waiting. Processor time is beside
the time that passed: on a machine with other work it tells more.
"""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import insert

from appliance.app.migrating import upgrade
from appliance.kernel.clock import SystemClock
from appliance.kernel.db import Database
from appliance.kernel.ids import new_id
from bench.placement.workload import GIB, POOL, SERVERS, draw, request
from gpu import leasing
from gpu.fairness import Waiting, plan_round
from gpu.placement import find, place
from gpu.reading import SnapshotReader
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceRow, NodeRow, PoolRow
from gpu.vendors.readings import LinkKind

DEVICES: Final = 8
SERVICES: Final = 500
TENANTS: Final = 20


class Speed(NamedTuple):
    """Milliseconds but for `replan_s`. `pause` is by how much the event loop's task was late during a replan, and
    `pause_idle` while nothing ran; `rejection` is one answer with every reason, for what fits nowhere.
    """

    devices: int
    services: int
    first_read: float
    decision_p50: float
    decision_p99: float
    decision_cpu_p50: float
    decision_cpu_p99: float
    replan_s: float
    replan_cpu_s: float
    pause_idle_p99: float
    pause_p99: float
    rejection: float


async def measure(nodes: int, decisions: int) -> Speed:
    services = min(SERVICES, nodes * 2)
    async with furnished(nodes, services) as database:
        reader = SnapshotReader()
        first, _ = await _timed(_read(database, reader))
        times = [await _decide(database, reader, number) for number in range(decisions)]
        snapshot = await _read(database, reader)
    cpu = time.process_time()
    replan_s, pauses = await _while_watched(_replan, snapshot, services)
    cpu = time.process_time() - cpu
    _, idle = await _while_watched(time.sleep, 1.0)
    wall, used = zip(*times, strict=True)
    return Speed(
        nodes * DEVICES,
        services,
        first * 1000,
        statistics.median(wall) * 1000,
        _p99(wall) * 1000,
        statistics.median(used) * 1000,
        _p99(used) * 1000,
        replan_s,
        cpu,
        _p99(idle) * 1000,
        _p99(pauses) * 1000,
        _rejection(snapshot) * 1000,
    )


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


async def _read(database: Database, reader: SnapshotReader) -> ComputeSnapshot:
    async with database.read() as session:
        return await reader.read(session)


async def _timed(work: Awaitable[Any]) -> tuple[float, float]:
    """Seconds that passed, and that processors worked."""
    begun, used = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - begun, time.process_time() - used


async def _decide(database: Database, reader: SnapshotReader, number: int) -> tuple[float, float]:
    wanted = request(draw(random.Random(number)))
    plan: Plan | None = None

    async def decision() -> None:
        nonlocal plan
        plan = find(await _read(database, reader), wanted)

    taken = await _timed(decision())
    async with database.write() as session:
        await leasing.release(session, f"rpl_{number:05d}")
        if plan is not None:
            await leasing.take(session, SystemClock(), f"rpl_new{number:05d}", plan, wanted)
    return taken


def _replan(snapshot: ComputeSnapshot, services: int) -> int:
    """Place a replica of so many services of several tenants; how many found a place."""
    return sum(outcome.plan is not None for outcome in plan_round(snapshot, _waiting(services, "rpl_again"), {}))


def _waiting(services: int, prefix: str) -> list[Waiting]:
    chance = random.Random(1)
    return [
        Waiting(
            replica_id=f"{prefix}{number:05d}",
            deployment_id=f"dep_{number}",
            tenant_id=f"ten_{number % TENANTS}",
            request=request(draw(chance)),
        )
        for number in range(services)
    ]


async def _while_watched(work: Any, *arguments: Any) -> tuple[float, list[float]]:
    """How long `work` took in a thread, and how much later than asked a task of the loop ran meanwhile; seconds."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            last = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - last - 0.001)

    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    await asyncio.to_thread(work, *arguments)
    taken = time.perf_counter() - begun
    watching.cancel()
    return taken, late


def _rejection(snapshot: ComputeSnapshot) -> float:
    wanted = PlacementRequest(pool_id=POOL.id, devices=16, cpus=1, memory_bytes=GIB)
    begun = time.perf_counter()
    place(snapshot, wanted)
    return time.perf_counter() - begun


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@asynccontextmanager
async def furnished(nodes: int, services: int) -> AsyncIterator[Database]:
    """A database with so many nodes of eight devices, each linked as the kind of server is, and services on them."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder)}/bench.sqlite"
        await upgrade(url)
        database = Database(url)
        async with database.write() as session:
            now = SystemClock().now()
            session.add(PoolRow(id=POOL.id, name=POOL.name, created_at=now))
            await session.flush()
            hosts = [_node(number, now) for number in range(nodes)]
            await session.execute(insert(NodeRow), hosts)
            devices = [row for number, host in enumerate(hosts) for row in _devices(number, host["id"], now)]
            await session.execute(insert(DeviceRow), devices)
            snapshot = await leasing.snapshot(session)
            for outcome in plan_round(snapshot, _waiting(services, "rpl_"), {}):
                if outcome.plan is not None:
                    one = outcome.waiting
                    await leasing.take(session, SystemClock(), one.replica_id, outcome.plan, one.request)
        yield database
        await database.engine.dispose()


def _node(number: int, now: object) -> dict[str, Any]:
    return {
        "id": new_id("nod"),
        "name": f"n{number:05d}",
        "pool_id": POOL.id,
        "state": NodeState.ready.value,
        "cpus": 128.0,
        "memory_bytes": 2048 * GIB,
        "memory_claimed": 0,
        "boot_id": "boot",
        "seen_at": now,
        "created_at": now,
    }


def _devices(number: int, node_id: str, now: object) -> list[dict[str, Any]]:
    server = SERVERS[number % len(SERVERS)]
    uuids = [f"GPU-{number}-{index}" for index in range(DEVICES)]
    return [
        {
            "id": new_id("dev"),
            "node_id": node_id,
            "vendor": "nvidia",
            "model": server.model,
            "uuid": uuid,
            "index": index,
            "pci_address": f"0000:{index:02x}:00.0",
            "memory_bytes": server.memory_bytes,
            "memory_foreign_bytes": 0,
            "numa_node": index // 4,
            "links": [
                {"peer": peer, "kind": _kind(index, other, server.clique), "nvlinks": 0}
                for other, peer in enumerate(uuids)
                if other != index
            ],
            "state": DeviceState.healthy.value,
            "seen_at": now,
            "created_at": now,
        }
        for index, uuid in enumerate(uuids)
    ]


def _kind(one: int, other: int, clique: int) -> str:
    if one // clique == other // clique:
        return LinkKind.nvlink.value
    return (LinkKind.node if one // 4 == other // 4 else LinkKind.sys).value
