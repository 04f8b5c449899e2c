"""Stand-ins for what other domains bring, and reading back what was audited."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from tenants.tables import AuditRow


async def no_services(_: AsyncSession, __: TenantId, ids: Sequence[str]) -> Sequence[str]:
    """A tenant without services."""
    return ids


async def all_services(_: AsyncSession, __: TenantId, ids: Sequence[str]) -> Sequence[str]:
    """A tenant that has whatever is asked for."""
    return []


async def actions(database: Database) -> list[str]:
    """What the audit trail says was done, in order."""
    async with database.read() as session:
        return list(await session.scalars(select(AuditRow.action).order_by(AuditRow.id)))
