"""Events of a service: the timeline that its owner reads."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from appliance.services.states import Phase
from appliance.services.tables import EventRow

KEPT: Final = 1000
"""Events of one service that stay; a service that fails for weeks makes some more each time it is started."""


def note(
    session: AsyncSession,
    clock: Clock,
    service_id: str,
    phase: Phase,
    message: str,
    *,
    replica_id: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    session.add(
        EventRow(
            id=new_id("evt"),
            service_id=service_id,
            replica_id=replica_id,
            at=clock.now(),
            phase=phase.value,
            message=message,
            detail=detail or {},
        )
    )


async def prune_events(session: AsyncSession) -> int:
    """Delete all but each service's newest events; how many."""
    number = func.row_number().over(partition_by=EventRow.service_id, order_by=EventRow.id.desc()).label("number")
    numbered = select(EventRow.id, number).subquery()
    old = delete(EventRow).where(EventRow.id.in_(select(numbered.c.id).where(numbered.c.number > KEPT)))
    result = await session.execute(old.execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]  # the result of a DELETE is a CursorResult
