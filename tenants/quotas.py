"""Counted limits: taken and given back in the transaction that creates or removes what is counted.

Several are taken in the order of `Resource`, in every transaction, so that none waits for another that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import LimitReached
from tenants.tables import QuotaRow

PLATFORM_SCOPE = "platform"


class Resource(StrEnum):
    """`cpu_millis` counts thousandths of a CPU, so that it is whole; `storage_bytes` the bytes of models' versions."""

    services = "services"
    replicas = "replicas"
    devices = "devices"
    device_memory_bytes = "device_memory_bytes"
    cpu_millis = "cpu_millis"
    memory_bytes = "memory_bytes"
    storage_bytes = "storage_bytes"
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


async def take_all(session: AsyncSession, scope: str, amounts: Mapping[Resource, int]) -> None:
    """`take` of each that is more than nothing."""
    for resource in Resource:
        if amount := amounts.get(resource, 0):
            await take(session, scope, resource, amount)


async def give_back_all(session: AsyncSession, scope: str, amounts: Mapping[Resource, int]) -> None:
    for resource in Resource:
        if amount := amounts.get(resource, 0):
            await give_back(session, scope, resource, amount)


async def give_back(session: AsyncSession, scope: str, resource: Resource, amount: int = 1) -> None:
    """Count `amount` less; the CHECK makes a double release an error."""
    await session.execute(
        update(QuotaRow)
        .where(QuotaRow.scope == scope, QuotaRow.resource == resource)
        .values(used=QuotaRow.used - amount)
    )
