"""The bridge to Prometheus: one exposition of all workers' metrics, for the control plane's internal port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.gateway.plane.wire import merge_expositions, scrape
from appliance.kernel.logging import get_logger

log = get_logger(__name__)


async def exposition(home: Path) -> str:
    """What the workers under APPLIANCE_HOME answer now, in Prometheus' text format.

    A worker that does not answer in time is left out; each sample names its worker, so the gap shows.
    """
    sockets = (home / "run").glob("worker-*-metrics.sock")
    indexes = sorted(int(path.name.split("-")[1]) for path in sockets)
    answers = await asyncio.gather(*(_scrape(home, index) for index in indexes))
    return merge_expositions(answer for answer in answers if answer)


async def _scrape(home: Path, index: int) -> str:
    try:
        return await scrape(home, index)
    except OSError as error:
        log.warning("worker.metrics_missing", worker=index, reason=str(error))
        return ""
