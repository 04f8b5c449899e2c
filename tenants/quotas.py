"""Counted limits: taken and given back in the transaction that creates or removes what is counted."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import LimitReached
from tenants.tables import QuotaRow

PLATFORM_SCOPE = "platform"


class Resource(StrEnum):
    services = "services"
    replicas = "replicas"
    devices = "devices"
    keys = "keys"
    listeners = "listeners"


class QuotaExceeded(LimitReached):
    code = "quota-exceeded"
    title = "A quota is used up"


async def take(session: AsyncSession, scope: str, resource: Resource, amount: int = 1) -> None:
    """Count `amount` more against the scope's limit, or raise `QuotaExceeded` with use, limit and remedy."""
    grown = await session.execute(
        update(QuotaRow)
        .where(QuotaRow.scope == scope, QuotaRow.resource == resource)
        .where(QuotaRow.used + amount <= QuotaRow.quota_limit)
        .values(used=QuotaRow.used + amount)
    )
    if grown.rowcount == 1:  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
        return
    query = select(QuotaRow.used, QuotaRow.quota_limit).where(QuotaRow.scope == scope, QuotaRow.resource == resource)
    found = (await session.execute(query)).one_or_none()
    owner = "the platform" if scope == PLATFORM_SCOPE else "the tenant"
    if found is None:
        raise QuotaExceeded(f"{owner} has no quota of {resource.value}; ask an administrator to set one", scope=scope)
    used, limit = found
    raise QuotaExceeded(
        f"{owner} uses {used} of {limit} {resource.value} and {amount} more would pass the limit; "
        f"delete some or ask an administrator to raise it",
        scope=scope,
    )


async def give_back(session: AsyncSession, scope: str, resource: Resource, amount: int = 1) -> None:
    """Count `amount` less; the CHECK makes a double release an error."""
    await session.execute(
        update(QuotaRow)
        .where(QuotaRow.scope == scope, QuotaRow.resource == resource)
        .values(used=QuotaRow.used - amount)
    )
