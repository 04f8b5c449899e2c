"""What is sampled, of devices, tenants and the platform, and in which units it is kept.

Samples are whole numbers: `scale` units of what is kept make one of what is shown. A series is named by the id of its
device or tenant, or `platform`. The order of gauges is the order of columns in packed blocks: new ones go to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PLATFORM: Final = "platform"


class Gauge(NamedTuple):
    name: str
    unit: str
    scale: int = 1

    def kept(self, value: float | None) -> int | None:
        return None if value is None else round(value * self.scale)

    def shown(self, value: float | None) -> float | None:
        return None if value is None else value / self.scale


DEVICE: Final = (
    Gauge("utilisation", "percent"),
    Gauge("memory_used", "bytes"),
    Gauge("memory_foreign", "bytes"),
    Gauge("memory_claimed", "bytes"),
    Gauge("temperature", "celsius"),
    Gauge("power", "watts", 10),
)
"""`memory_claimed`: the shares of its leases, of its memory."""
TENANT: Final = (
    Gauge("devices", "devices", 100),
    Gauge("memory_claimed", "bytes"),
    Gauge("replicas", "replicas"),
)
"""What a tenant's replicas hold: shares of devices summed, and of their memory."""
WHOLE: Final = (
    Gauge("devices", "devices"),
    Gauge("healthy", "devices"),
    Gauge("leased", "devices", 100),
    Gauge("free", "devices", 100),
    Gauge("fragmentation", "percent", 10),
)
"""Of the platform. `free` is what is not leased of healthy, open devices, shares of devices too. `fragmentation`: the
part of it that could not be used by replicas of the flavor with most devices (see `sampling`).
"""
OF: Final[Mapping[str, tuple[Gauge, ...]]] = {"dev": DEVICE, "ten": TENANT, PLATFORM: WHOLE}


def gauges_of(series: str) -> tuple[Gauge, ...]:
    """Those of a series, by its name."""
    return OF[series.partition("_")[0]]
