"""APScheduler gives the ticks: each reconciler is activated once a period; what it then does is its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from appliance.kernel.activation import Activations


def ticking(activations: Activations, periods: Mapping[str, float]) -> AsyncIOScheduler:
    """A scheduler, not started, that activates each reconciler in its period (seconds)."""
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, seconds in periods.items():
        scheduler.add_job(
            activations.activate,
            "interval",
            args=([name],),
            seconds=seconds,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
    return scheduler
