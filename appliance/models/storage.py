"""What versions count against their tenant's storage quota; shared models count for nobody.

A version counts its files' bytes, `LEAST` for each at least, whether or not their content is on disk once for several:
an upload what it announced, from its beginning, a tag what it names, another import what it is about to write, before
it does; while an archive is taken apart, it and its members. Rows of versions are locked before
the counter is touched, in every transaction, so that nothing is given back twice and none waits for another that waits
for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.models.tables import ModelRow, ModelVersionRow
from tenants import quotas
from tenants.quotas import Resource

LEAST: Final = 4096
"""Bytes that a file counts whatever its length: it takes a block, a name and a row."""


def size_of(files: Iterable[int]) -> int:
    """What files of these lengths count."""
    return sum(max(size, LEAST) for size in files)


async def count(session: AsyncSession, tenant_id: str | None, version: ModelVersionRow, size: int) -> None:
    """Have `version` (locked, or new) count `size` bytes from now on; raises `QuotaExceeded`."""
    if tenant_id is None:
        return
    more = size - version.counted_bytes
    if more > 0:
        await quotas.take(session, tenant_id, Resource.storage_bytes, more)
    elif more < 0:
        await quotas.give_back(session, tenant_id, Resource.storage_bytes, -more)
    version.counted_bytes = size
    await session.flush()


async def give_back(session: AsyncSession, which: ColumnElement[bool]) -> None:
    """Of these versions, which the caller is about to delete."""
    locked = select(ModelVersionRow.model_id, ModelVersionRow.counted_bytes).where(
        which, ModelVersionRow.counted_bytes > 0
    )
    found = (await session.execute(locked.order_by(ModelVersionRow.id).with_for_update())).all()
    if not found:
        return
    query = select(ModelRow.id, ModelRow.tenant_id).where(ModelRow.id.in_({model_id for model_id, _ in found}))
    tenants = dict((await session.execute(query)).all())
    sums: Counter[str] = Counter()
    for model_id, size in found:
        if (tenant_id := tenants[model_id]) is not None:
            sums[tenant_id] += size
    for tenant_id in sorted(sums):
        await quotas.give_back(session, tenant_id, Resource.storage_bytes, sums[tenant_id])


async def lock(session: AsyncSession, which: ColumnElement[bool]) -> None:
    """Before several versions are counted one after another."""
    await session.execute(select(ModelVersionRow.id).where(which).order_by(ModelVersionRow.id).with_for_update())
