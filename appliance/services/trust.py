"""Who may run where: a launcher that keeps no replica from another runs those of trusted tenants alone.

Asked when a service is created and started, for an answer to whoever asks; and again wherever a replica is placed and
launched, since an administrator may have changed the tenant meanwhile.
"""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.services.errors import TenantUntrusted
from tenants.schemas import Trust
from tenants.tables import TenantRow


class Isolation(Protocol):
    """What of a launcher matters here."""

    @property
    def name(self) -> str: ...
    @property
    def isolates(self) -> bool: ...


def refusal(launcher: Isolation, tenant: TenantRow) -> str | None:
    """Why the tenant's replicas may not be started by this launcher; None where they may."""
    if launcher.isolates or tenant.trust == Trust.trusted:
        return None
    return (
        f"tenant {tenant.name!r} is untrusted, and the {launcher.name} launcher keeps no replica from those of other "
        "tenants; an administrator may run the appliance with APPLIANCE_LAUNCHER=docker, or trust the tenant: "
        f"appliance tenant update {tenant.name} --trust trusted"
    )


async def check(session: AsyncSession, launcher: Isolation, tenant_id: str) -> None:
    """Raise `TenantUntrusted` where this launcher may not run the tenant's replicas."""
    reason = refusal(launcher, await session.get_one(TenantRow, tenant_id))
    if reason is not None:
        raise TenantUntrusted(reason)
