"""What a tenant asks of a service changes its counts by what it changes, in whatever order and however many at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from appliance.kernel.errors import ApplianceError
from appliance.services.errors import ActionNotAllowed
from appliance.services.lifecycle import start_service, stop_service
from appliance.services.states import ReplicaState, ServiceState
from tenants.quotas import QuotaExceeded
from tests.services.stage import LIMIT, Stage

Action = Callable[[Stage, str], Awaitable[None]]


async def stop(stage: Stage, service_id: str) -> None:
    async with stage.service_work(service_id) as (work, row):
        await stop_service(work, row)


async def start(stage: Stage, service_id: str) -> None:
    async with stage.service_work(service_id) as (work, row):
        await start_service(work, row, stage.launcher)


async def test_counts_follow_what_is_to_run(stage: Stage) -> None:
    async def counted() -> tuple[int, int, int]:
        counts = await stage.counted()
        return counts["services"], counts["replicas"], counts["devices"]

    service_id = await stage.create(replicas=2, flavor="gpu")
    assert await counted() == (1, 2, 2)
    await stage.scale(service_id, 5)
    assert await counted() == (1, 5, 5)
    await stage.scale(service_id, 1)
    assert await counted() == (1, 1, 1)
    await stop(stage, service_id)
    assert await counted() == (1, 0, 0)
    await stage.scale(service_id, 3)
    assert await counted() == (1, 0, 0)
    await start(stage, service_id)
    assert await counted() == (1, 3, 3)
    await stage.delete(service_id)
    assert await counted() == (1, 0, 0)
    await stage.until_forgotten(service_id)
    assert await counted() == (0, 0, 0)


async def test_a_stopped_service_gives_back_its_place_when_deleted(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    await stop(stage, service_id)
    await stage.until(service_id, ServiceState.stopped)
    assert not stage.launcher.running
    await stage.delete(service_id)
    await stage.until_forgotten(service_id)
    assert set((await stage.counted()).values()) == {0}


async def test_a_start_beyond_the_quota_changes_nothing(stage: Stage) -> None:
    stopped = await stage.create("stopped", replicas=LIMIT)
    await stop(stage, stopped)
    await stage.create("other")
    with pytest.raises(QuotaExceeded):
        await start(stage, stopped)
    assert (await stage.counted())["replicas"] == 1
    assert (await stage.service(stopped)).desired == "stopped"


@pytest.mark.parametrize("action", [start, stop, Stage.delete])
async def test_of_many_at_once_one_is_counted(stage: Stage, action: Action) -> None:
    service_id = await stage.create(replicas=2)
    if action is start:
        await stop(stage, service_id)

    async def attempt() -> str:
        try:
            await action(stage, service_id)
        except ApplianceError as error:
            return error.code
        return "done"

    outcomes = await asyncio.gather(*(attempt() for _ in range(5)))
    assert Counter(outcomes) == {"done": 1, ActionNotAllowed.code: 4}
    assert (await stage.counted())["replicas"] == (2 if action is start else 0)


async def test_changes_at_once_end_with_the_counts_of_the_last(stage: Stage) -> None:
    service_id = await stage.create()
    await asyncio.gather(*(stage.scale(service_id, replicas) for replicas in (5, 2, 4, 3)))
    assert (await stage.counted())["replicas"] == (await stage.deployment(service_id)).replicas


async def test_requests_and_rounds_at_once_neither_block_nor_lose(stage: Stage) -> None:
    """Rounds hold the control lease and then rows of services; requests hold services and never wait for the lease."""
    services = [await stage.create(f"chat-{number}") for number in range(4)]

    async def ask(service_id: str) -> None:
        for replicas in (2, 1, 0, 1):
            await stage.scale(service_id, replicas)
        await stop(stage, service_id)
        await start(stage, service_id)

    async def reconcile() -> None:
        for _ in range(12):
            await stage.round()

    await asyncio.gather(reconcile(), *map(ask, services))
    for service_id in services:
        await stage.until(service_id, ServiceState.ready)
        assert len(await stage.replicas(service_id, ReplicaState.ready)) == 1
    assert (await stage.counted())["replicas"] == len(services)
