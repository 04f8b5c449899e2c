"""One unit of work: a session within its one transaction, who acts, and the clock. What operations take first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel import db
from appliance.kernel.clock import Clock
from tenants import audit
from tenants.actors import Actor
from tenants.scope import TenantScope


@dataclass(frozen=True, slots=True)
class Work:
    session: AsyncSession
    actor: Actor
    clock: Clock

    @property
    def scope(self) -> TenantScope:
        return self.actor.scope

    def now(self) -> datetime:
        return self.clock.now()

    def record(
        self, action: str, kind: str, target: str, *, tenant_id: str | None = None, detail: dict[str, Any] | None = None
    ) -> None:
        """Write the audit row of this mutation."""
        audit.add(self.session, self.actor, self.now(), action, kind, target, tenant_id=tenant_id, detail=detail)

    def wake(self, *reconcilers: str) -> None:
        """Activate these reconcilers once the transaction is committed."""
        db.wake(self.session, *reconcilers)
