"""The inventory reconciler: the database's nodes and devices equal the machine.

Level-triggered and without input. The machine is read and the drivers are asked before any session is opened; the
apply phase is guarded by the control lease. A driver that hangs makes its devices stale and delays nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
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
from gpu.states import DeviceState
from gpu.tables import DeviceRow
from gpu.vendors.readings import Reading

log = get_logger(__name__)

PidsOfOurs = Callable[[Collection[int]], Awaitable[Collection[int] | None]]
"""Those of these pids that belong to replicas of this appliance; None where that cannot be told now."""


class DeviceProbe(Protocol):
    async def readings(self) -> Sequence[Reading]:
        """Never raises; answers within a deadline of its own."""
        ...

    async def close(self) -> None: ...


class InventoryStatus(Struct, frozen=True):
    """`devices` counts those in each state, `errors` says by vendor which driver does not answer."""

    node_id: str
    cpus: float
    memory_bytes: int
    devices: dict[str, int]
    simulated: int
    errors: dict[str, str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the inventory asks and tells of the rest: `guard` raises where the control lease is lost, `fenced` is told
    of each device that was fenced, in the same transaction, `wakes` names the reconcilers to activate when a device
    came, went or changed its state, `followers` those to activate after each probe.
    """

    guard: Callable[[AsyncSession], Awaitable[None]]
    pids_of_ours: PidsOfOurs
    fenced: Callable[[AsyncSession, Change], None]
    wakes: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()


class Inventory:
    """`identity` is the file with this node's id, so that a renamed machine stays the same node."""

    name = "inventory"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        identity: Path,
        probe: DeviceProbe,
        surroundings: Surroundings,
        machine: Callable[[], Machine] = read_machine,
        period_s: float = 10.0,
    ) -> None:
        self._database, self._clock = database, clock
        self._identity, self._probe, self._machine = identity, probe, machine
        self._surroundings = surroundings
        self.period_s = period_s

    async def reconcile(self) -> InventoryStatus:
        node_id = await asyncio.to_thread(self._read_identity)
        machine = await asyncio.to_thread(self._machine)
        readings = await self._probe.readings()
        ours = await self._surroundings.pids_of_ours(_pids(readings))
        async with self._database.write() as session:
            await self._surroundings.guard(session)
            node = await record_node(session, self._clock, node_id, machine)
            changes = await record_devices(session, self._clock, node, readings, ours)
            wake(session, *self._surroundings.followers)
            if changes or node_id is None:
                wake(session, *self._surroundings.wakes)
            for change in changes:
                if change.after is DeviceState.fenced:
                    self._surroundings.fenced(session, change)
            status = await self._status(session, node.id, machine, readings)
        if node_id != status.node_id:
            await asyncio.to_thread(write_atomic, self._identity, f"{status.node_id}\n".encode())
        self._log(changes)
        return status

    async def close(self) -> None:
        """End the processes that ask the drivers."""
        await self._probe.close()

    @staticmethod
    async def _status(
        session: AsyncSession, node_id: str, machine: Machine, readings: Sequence[Reading]
    ) -> InventoryStatus:
        query = select(DeviceRow.state, DeviceRow.simulated).where(DeviceRow.node_id == node_id)
        rows = (await session.execute(query)).all()
        return InventoryStatus(
            node_id=node_id,
            cpus=machine.cpus,
            memory_bytes=machine.memory_bytes,
            devices=dict(Counter(state for state, _ in rows)),
            simulated=sum(simulated for _, simulated in rows),
            errors={reading.vendor.value: reading.error for reading in readings if reading.error is not None},
        )

    def _read_identity(self) -> str | None:
        try:
            text = self._identity.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return text if is_id(text, "nod") else None

    @staticmethod
    def _log(changes: list[Change]) -> None:
        for change in changes:
            tell = log.info if change.after is DeviceState.healthy else log.warning
            tell(
                "device.changed",
                device=change.device_id,
                before=change.before,
                after=change.after,
                reason=change.reason,
            )


def _pids(readings: Sequence[Reading]) -> Collection[int]:
    devices = [device for reading in readings for device in reading.devices]
    return {process.pid for device in devices for process in device.processes or ()}
