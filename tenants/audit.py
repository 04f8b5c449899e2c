"""The audit trail: one row for each mutation, in the mutation's own transaction (invariant I9).

`record` marks the session; a request that writes and did not record is rolled back by the API's transaction
dependency. The hash chain is sealed afterwards by a follower (`tenants.sealing`), so that it does not serialise
writers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.db import wake
from appliance.kernel.ids import new_id
from tenants.actors import Actor
from tenants.tables import AuditRow

SEALER = "audit-seal"


def add(
    session: AsyncSession,
    actor: Actor,
    at: datetime,
    action: str,
    kind: str,
    target: str,
    *,
    tenant_id: str | None,
    detail: dict[str, Any] | None,
) -> None:
    """Note that `actor` did `action` (`service.created`) to an object; `detail` never holds a secret."""
    session.add(
        AuditRow(
            id=new_id("aud"),
            at=at,
            actor_kind=actor.kind.value,
            actor_id=actor.id,
            actor_name=actor.name,
            tenant_id=tenant_id or actor.tenant_id or None,
            action=action,
            target_kind=kind,
            target_id=target,
            request_id=actor.request_id,
            detail=detail or {},
        )
    )
    session.info["audited"] = True
    wake(session, SEALER)


def is_recorded(session: AsyncSession) -> bool:
    return bool(session.info.get("audited"))
