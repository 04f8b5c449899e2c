"""The inventory reconciler: the database's nodes and devices equal the machine.

Level-triggered and without input. The machine is read and the drivers are asked before any session is opened; the
apply phase is guarded by the control lease. A driver that hangs makes its devices stale and delays nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.db import Database, wake
from appliance.kernel.files import write_atomic
from appliance.kernel.ids import is_id
from appliance.kernel.logging import get_logger
from gpu.discovery import Change, record_devices, record_node
from gpu.machine import Machine, read_machine
from gpu.probe import ProbeAnswer
from gpu.tables import DeviceRow

log = get_logger(__name__)


class DeviceProbe(Protocol):
    async def devices(self) -> ProbeAnswer:
        """Never raises; answers within a deadline of its own."""
        ...


class InventoryStatus(Struct, frozen=True):
    node_id: str
    cpus: float
    memory_bytes: int
    devices: dict[str, int]
    """How many are in each state."""
    error: str | None


class Inventory:
    """`identity` is the file with this node's id, so that a renamed machine stays the same node. `wakes` names the
    reconcilers to activate when a device came, went or changed its state.
    """

    name = "inventory"
    period_s = 30.0

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        identity: Path,
        probe: DeviceProbe,
        guard: Callable[[AsyncSession], Awaitable[None]],
        machine: Callable[[], Machine] = read_machine,
        wakes: tuple[str, ...] = (),
    ) -> None:
        self._database, self._clock = database, clock
        self._identity, self._probe, self._machine = identity, probe, machine
        self._guard, self._wakes = guard, wakes

    async def reconcile(self) -> InventoryStatus:
        node_id = await asyncio.to_thread(self._read_identity)
        machine = await asyncio.to_thread(self._machine)
        answer = await self._probe.devices()
        async with self._database.write() as session:
            await self._guard(session)
            node = await record_node(session, self._clock, node_id, machine)
            changes = await record_devices(session, self._clock, node.id, answer)
            if changes or node_id is None:
                wake(session, *self._wakes)
            states = await session.scalars(select(DeviceRow.state).where(DeviceRow.node_id == node.id))
            status = InventoryStatus(node.id, node.cpus, node.memory_bytes, dict(Counter(states)), answer.error)
        if node_id != status.node_id:
            await asyncio.to_thread(write_atomic, self._identity, f"{status.node_id}\n".encode())
        self._log(changes)
        return status

    def _read_identity(self) -> str | None:
        try:
            text = self._identity.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return text if is_id(text, "nod") else None

    def _log(self, changes: list[Change]) -> None:
        for change in changes:
            log.info(
                "device.changed",
                device=change.device_id,
                before=change.before,
                after=change.after,
                reason=change.reason,
            )
