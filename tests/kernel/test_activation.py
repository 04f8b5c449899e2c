"""Signals of reconcilers are merged and never lost; a round that fails is told and the next one comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from appliance.kernel.activation import Activated
from appliance.kernel.clock import ManualClock


class Rounds:
    """A reconciler that stops within each round until it is let go."""

    name = "rounds"
    period_s = 1.0

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def reconcile(self) -> str:
        self.begun.release()
        await self.may_end.acquire()
        if self.error is not None:
            raise self.error
        return "done"


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
async def activated(rounds: Rounds) -> AsyncIterator[Activated]:
    activated = Activated(rounds, ManualClock())
    task = asyncio.create_task(activated.run())
    yield activated
    task.cancel()
    await asyncio.wait({task})


async def begins(rounds: Rounds) -> bool:
    try:
        await asyncio.wait_for(rounds.begun.acquire(), 0.2)
    except TimeoutError:
        return False
    return True


async def test_signals_within_a_round_are_one_more_round(rounds: Rounds, activated: Activated) -> None:
    assert await begins(rounds)  # the first needs no signal
    for _ in range(3):
        activated.activate()
    rounds.may_end.release()
    assert await begins(rounds)
    rounds.may_end.release()
    assert not await begins(rounds)
    activated.activate()
    assert await begins(rounds)


async def test_a_failed_round_is_told_and_forgotten_by_the_next(rounds: Rounds, activated: Activated) -> None:
    rounds.error = ValueError("no")
    rounds.may_end.release()
    assert await begins(rounds)
    activated.activate()
    assert await begins(rounds)
    assert (activated.status().failures, activated.status().last_error) == (1, "ValueError: no")
    rounds.error = None
    activated.activate()
    rounds.may_end.release()
    assert await begins(rounds)
    assert (activated.status().rounds, activated.status().last_error) == (3, None)
    assert activated.status().last_result == "done"
