"""Events of a service: the timeline that its owner reads."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from appliance.services.states import Phase
from appliance.services.tables import EventRow


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
