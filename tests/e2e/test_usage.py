"""I4: what is billed, and the tail that is declared, against the engine's own books, though processes are killed.

`tests/support/books.py` says what cannot be known, and is bounded instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from tests.support import books
from tests.support.appliance import Appliance, Tenant, running
from tests.support.load import Asked, Load, plan
from tests.support.waiting import eventually, eventually_async

REQUESTS: Final = 1000
CONCURRENCY: Final = 32
SEED: Final = 20_261
PAUSE_MS: Final = 5


async def test_the_books_agree_though_processes_are_killed() -> None:
    # No further probes: one that is cut by the control plane's death would be in the engine's books alone.
    with running(APPLIANCE_ENGINES__READY_PERIOD_S="3600") as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("metered", replicas=2, args=[f"--pause-ms={PAUSE_MS}"])
        service = tenant.until("metered", "ready")
        eventually(lambda: tenant.service("metered")["ready_replicas"] == 2)
        requests = plan(REQUESTS, SEED)
        load = Load(service["url"], tenant.known_key(service["url"]), "metered", requests, concurrency=CONCURRENCY)
        await asyncio.gather(load.run(), _kill_on_the_way(appliance, load))
        _few_are_broken(requests)
        print(books.agree(appliance, tenant, service["id"], requests))  # noqa: T201
        assert not appliance.violations()


async def _kill_on_the_way(appliance: Appliance, load: Load) -> None:
    """A worker, the control plane, the other worker; each after a part of the requests."""
    await eventually_async(lambda: _reached(load, REQUESTS // 5), 60)
    appliance.kill_worker(0)
    await eventually_async(lambda: _reached(load, 2 * REQUESTS // 5), 60)
    appliance.kill()
    await eventually_async(lambda: _reached(load, 3 * REQUESTS // 5), 60)
    appliance.kill_worker(1)
    await asyncio.to_thread(appliance.start)


async def _reached(load: Load, count: int) -> bool:
    return load.done >= count


def _few_are_broken(requests: Sequence[Asked]) -> None:
    """What a killed worker had in hand is lost for its client, and nothing else."""
    assert sum(asked.broken for asked in requests) <= 2 * CONCURRENCY
    refused = [asked for asked in requests if asked.status not in (0, httpx.codes.OK)]
    assert not refused, refused[:5]
