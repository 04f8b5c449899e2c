"""What tests of balancing, ejection and mirroring have in common."""

import asyncio
import os
from pathlib import Path

from appliance.gateway.plane import local, wire
from tests.plane.harness import Gateway

Samples = dict[tuple[str, str], float]


def replica(replica_id: str, socket: Path, **changes: int) -> wire.Replica:
    return wire.Replica(replica_id, str(socket), os.getuid(), **changes)


def metrics(gateway: Gateway, index: int = 0) -> Samples:
    """Worker `index`'s samples by name (without the prefix) and labels (without the worker)."""
    found: Samples = {}
    for line in asyncio.run(local.scrape(gateway.home, index)).splitlines():
        if line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.rstrip("}").partition("{")
        rest = labels.partition(f'worker="{index}"')[2].removeprefix(",")
        found[name.removeprefix("appliance_gateway_"), rest] = float(value)
    return found
