"""What the gateway's workers say about services that sleep: that somebody waits for them.

The order of events that wakes nobody for nothing and forgets nobody:

    put to sleep:  forget(service), then publish it as asleep
    look:          pending() says who is asked for (each time; nothing is remembered here)
    wake:          start a replica; publish it as awake when the replica is ready; then clear(demand)

A worker asks only while its snapshot says that the service sleeps, and asks again while requests wait. So a demand
that was cleared too early comes back, and one that is left over from the sleep before is gone before the next begins.
"""

from __future__ import annotations

from pathlib import Path

from appliance.gateway.plane.wire import Demand, clear_demand, demand_directory, forget_demand, read_demands


class Demands:
    """`home` is APPLIANCE_HOME."""

    def __init__(self, home: Path) -> None:
        self._directory = demand_directory(home)

    def pending(self) -> dict[str, Demand]:
        """By service: there is at most one each. Services of which nobody knows may be among them."""
        return read_demands(self._directory)

    def clear(self, demand: Demand) -> None:
        """It was met. One that was written since stays. Idempotent."""
        clear_demand(self._directory, demand)

    def forget(self, service_id: str) -> None:
        """Remove whatever is asked of the service: it falls asleep now, or is gone. Idempotent."""
        forget_demand(self._directory, service_id)
