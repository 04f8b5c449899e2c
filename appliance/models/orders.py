"""Reading from the database what is to be imported, and writing back how far it is."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.models import queries
from appliance.models.ingest import Order
from appliance.models.progress import Progress
from appliance.models.states import Source, VersionState
from appliance.models.store import StoredFile
from appliance.models.tables import ModelImportRow, ModelRow, ModelVersionRow
from appliance.models.views import metadata_of


async def load_orders(session: AsyncSession) -> list[Order]:
    """All imports that have not ended, the oldest first."""
    query = (
        select(ModelImportRow, ModelRow)
        .join(ModelVersionRow, ModelVersionRow.id == ModelImportRow.version_id)
        .join(ModelRow, ModelRow.id == ModelVersionRow.model_id)
        .order_by(ModelImportRow.version_id)
    )
    return [_order(running, model) for running, model in await session.execute(query)]


def _order(running: ModelImportRow, model: ModelRow) -> Order:
    return Order(running.version_id, model.id, model.tenant_id, Source(running.source), running.location)


async def with_files(session: AsyncSession, order: Order) -> Order:
    """The order with what its source consists of."""
    match order.source:
        case Source.directory:
            return order
        case Source.version:
            return await _with_version(session, order)
        case _:
            files = await queries.upload_files(session, order.location)
            return replace(order, files=tuple(StoredFile(file.path, file.sha256, file.size) for file in files))


async def _with_version(session: AsyncSession, order: Order) -> Order:
    source = await session.get(ModelVersionRow, order.location)
    if source is None or source.state != VersionState.normal:
        return order
    files = await queries.list_files(session, source.id)
    found = tuple(StoredFile(file.path, file.sha256, file.size) for file in files)
    return replace(order, files=found, metadata=metadata_of(source))


async def report(session: AsyncSession, version_id: str, progress: Progress) -> bool:
    """Note how far the import is; False where it was deleted."""
    values = {"phase": progress.phase, "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total}
    updated = await session.execute(
        update(ModelImportRow).where(ModelImportRow.version_id == version_id).values(values)
    )
    return bool(updated.rowcount)  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
