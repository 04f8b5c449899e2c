"""`python -m bench.snapshot`: 500 services, 10,000 keys, 100 tenants and 1,000 budgets on SQLite; one change at a time.

For each kind of change the median and the worst of the rounds, in milliseconds: `whole` from the commit to the
manifest, `cpu` what the process used for it, `pause` the longest that the event loop was kept from a task that wants to
run each millisecond; and how many shards were written.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from sqlalchemy import func, insert, select, update

from appliance.app.migrating import upgrade
from appliance.app.schema import metadata
from appliance.gateway.plane.wire import SnapshotWriter
from appliance.gateway.publisher import GatewayNode, SnapshotPublisher
from appliance.kernel import leases
from appliance.kernel.clock import SystemClock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.ids import new_id
from appliance.kernel.leases import Guarded
from appliance.runtimes.catalog import Catalog
from appliance.services.published import Routes
from appliance.services.tables import ReplicaRow, ServiceRow
from tenants.budget_tables import BudgetRow
from tenants.tables import ApiKeyRow, TenantRow

TENANTS, SERVICES, KEYS, BUDGETS = 100, 500, 10_000, 1_000

FIGURES = ("whole", "cpu", "pause")

Change = Callable[[Database, int], Awaitable[None]]


async def fill(database: Database) -> None:
    now = SystemClock().now()
    tenants = [new_id("ten") for _ in range(TENANTS)]
    services = [new_id("svc") for _ in range(SERVICES)]
    keys = [new_id("key") for _ in range(KEYS)]
    pool, flavor, model, version = (new_id(kind) for kind in ("pol", "flv", "mdl", "ver"))
    rows: dict[str, list[dict[str, object]]] = {
        "tenants": [
            {"id": one, "name": one, "display_name": one, "state": "active", "version": 1, "created_at": now}
            for one in tenants
        ],
        "pools": [{"id": pool, "name": "default", "description": "", "version": 1, "created_at": now}],
        "flavors": [
            {"id": flavor, "name": "small", "description": "", "devices": 0, "cpus": 1.0, "memory_bytes": 1}
            | {"tmp_bytes": 0, "version": 1, "created_at": now}
        ],
        "models": [{"id": model, "name": "tiny", "description": "", "version": 1, "created_at": now}],
        "model_versions": [
            {"id": version, "model_id": model, "name": "main", "kind": "branch", "state": "normal", "is_current": True}
            | {"total_bytes": 0, "metadata": {"max_positions": 4096}, "created_at": now}
        ],
        "services": [
            {"id": one, "tenant_id": tenants[number % TENANTS], "name": f"s{number}", "description": ""}
            | {"served_model": f"s{number}", "desired": "running", "state": "ready", "reason": "", "defaults": {}}
            | {"timeouts": {}, "version": 1, "created_at": now, "updated_at": now, "state_since": now}
            for number, one in enumerate(services)
        ],
        "deployments": [
            {"id": new_id("dep"), "service_id": one, "tenant_id": tenants[number % TENANTS], "name": "main"}
            | {"generation": 1, "model_id": model, "model_version_id": version, "model_name": "tiny"}
            | {"model_version": "main", "runtime": "vllm", "pool_id": pool, "flavor_id": flavor, "flavor_name": "small"}
            | {"devices": 0, "replicas": 1, "args": [], "env": {}, "weight": 100, "failures": 0}
            for number, one in enumerate(services)
        ],
        "api_keys": [
            {"id": one, "tenant_id": tenants[number % TENANTS], "name": f"k{number}", "prefix": "ak", "version": 1}
            | {"secret_sha256": sha256_hex(one), "scopes": ["inference"], "services": [], "created_by": "bench"}
            | {"limits": {"requests_per_minute": 60}, "created_at": now}
            for number, one in enumerate(keys)
        ],
        "budgets": [
            {"id": new_id("bdg"), "tenant_id": tenants[number % TENANTS], "kind": "key", "subject_id": keys[number]}
            | {"subject_name": "k", "period": "total", "tokens": 10**6, "spent": 0, "period_start": now, "version": 1}
            | {"created_by": "bench", "created_at": now}
            for number in range(BUDGETS)
        ],
    }
    rows["replicas"] = [
        {"id": new_id("rpl"), "service_id": row["service_id"], "deployment_id": row["id"], "generation": 1}
        | {"tenant_id": row["tenant_id"], "state": "ready", "reason": "", "created_at": now}
        | {"probe_prompt_tokens": 0, "probe_completion_tokens": 0}
        for row in rows["deployments"]
    ]
    async with database.write() as session:
        for table, values in rows.items():
            await session.execute(insert(metadata.tables[table]), values)


async def nothing(_: Database, __: int) -> None: ...


async def one_key(database: Database, number: int) -> None:
    await _touch(database, ApiKeyRow, number, limits={"requests_per_minute": number + 1})


async def one_tenant(database: Database, number: int) -> None:
    await _touch(database, TenantRow, number, limits={"requests_per_minute": number + 1})


async def one_service(database: Database, number: int) -> None:
    await _touch(database, ServiceRow, number, queue={"max_queued": number})


async def one_budget(database: Database, number: int) -> None:
    await _touch(database, BudgetRow, number, tokens=number + 1)


async def one_replica(database: Database, number: int) -> None:
    async with database.write() as session:
        chosen = await session.scalar(select(ReplicaRow.id).order_by(ReplicaRow.id).offset(number).limit(1))
        await session.execute(update(ReplicaRow).where(ReplicaRow.id == chosen).values(state="draining"))


async def _touch(
    database: Database,
    table: type[ApiKeyRow | TenantRow | ServiceRow | BudgetRow],
    number: int,
    **values: object,
) -> None:
    async with database.write() as session:
        count = await session.scalar(select(func.count()).select_from(table)) or 1
        chosen = await session.scalar(select(table.id).order_by(table.id).offset(number * 37 % count).limit(1))
        await session.execute(update(table).where(table.id == chosen).values(**values, version=table.version + 1))


CHANGES: dict[str, Change] = {
    "nothing": nothing,
    "a key": one_key,
    "a tenant": one_tenant,
    "a service": one_service,
    "a replica": one_replica,
    "a budget": one_budget,
}


class Sample(NamedTuple):
    """Milliseconds, and a count."""

    whole: float
    cpu: float
    pause: float
    shards: int


async def longest_pause(until: asyncio.Event) -> float:
    """Seconds beyond the millisecond that a task had asked to sleep."""
    longest, last = 0.0, time.perf_counter()
    while not until.is_set():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last - 0.001), now
    return longest


async def measure(publisher: SnapshotPublisher, writer: SnapshotWriter) -> Sample:
    before = manifest.shards if (manifest := writer.current()) else {}
    done = asyncio.Event()
    watching = asyncio.create_task(longest_pause(done))
    begun, used = time.perf_counter(), time.process_time()
    await publisher.publish()
    whole, cpu = time.perf_counter() - begun, time.process_time() - used
    done.set()
    after = manifest.shards if (manifest := writer.current()) else {}
    written = sum(before.get(name) != file for name, file in after.items())
    return Sample(whole * 1000, cpu * 1000, await watching * 1000, written)


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite+aiosqlite:///{folder}/bench.sqlite"
        await upgrade(url)
        database, clock = Database(url), SystemClock()
        await fill(database)
        async with database.write() as session:
            lease = await leases.take(session, "control", "bench", clock)
        guarded, writer = Guarded(database, lease), SnapshotWriter(folder / "snapshot")
        routes = Routes(Catalog.load(), folder, clock, salt=sha256_hex, body_bytes=1 << 25, owner_uid=0)
        node = GatewayNode(name="node", workers=2)
        publisher = SnapshotPublisher(guarded, writer, routes, clock, node=node, salt=sha256_hex)
        print(f"{'change':12}" + "".join(f"{name:>9}{'worst':>9}" for name in FIGURES) + f"{'shards':>8}")
        show("everything", [await measure(publisher, writer)])
        for what, change in CHANGES.items():
            found = []
            for number in range(rounds):
                await change(database, number)
                found.append(await measure(publisher, writer))
            show(what, found)
        await database.close()


def show(what: str, found: list[Sample]) -> None:
    columns = [[getattr(sample, name) for sample in found] for name in FIGURES]
    figures = "".join(f"{statistics.median(column):9.1f}{max(column):9.1f}" for column in columns)
    print(f"{what:12}{figures}{max(sample.shards for sample in found):8}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.snapshot")
    parser.add_argument("--rounds", type=int, default=9)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main(parser.parse_args().rounds))
