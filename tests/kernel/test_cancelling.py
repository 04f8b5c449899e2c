"""A task that writes all the time ends when it is cancelled, whatever it is just doing."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text

from appliance.kernel.db import Database

STEPS: Final = 60
"""More steps of the event loop than a write has."""


async def test_a_cancelled_writer_ends(database: Database) -> None:
    async def write_for_ever() -> None:
        while True:
            async with database.write() as session:
                await session.execute(text("SELECT 1"))

    for steps in range(STEPS):
        task = asyncio.create_task(write_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, f"the task goes on, cancelled after {steps} steps"
        assert task.cancelled()
