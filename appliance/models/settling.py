"""The ends of an import in the database: the version becomes normal and takes its name, or failed with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import ApplianceError
from appliance.models import storage
from appliance.models.errors import ModelRefused
from appliance.models.ingest import Imported, Order
from appliance.models.names import RECONCILER
from appliance.models.operations import adopt_default
from appliance.models.schemas import FailedFile, ImportFailure, as_builtins
from appliance.models.states import VersionAction, VersionState, can
from appliance.models.store import StoredFile
from appliance.models.tables import BlobRow, ModelFileRow, ModelImportRow, ModelRow, ModelUploadRow, ModelVersionRow
from tenants.quotas import QuotaExceeded
from tenants.work import Work

BATCH = 500
"""Rows in one statement, below the databases' limits on parameters."""
MOST_SHOWN = 100


async def settle_normal(work: Work, order: Order, imported: Imported) -> bool:
    """The version is whole and becomes the current one of its name; False if it was deleted meanwhile, or fails because
    its tenant has no room for it.
    """
    model = await _lock_model(work.session, order)
    version = await _importing(work.session, order.version_id)
    if model is None or version is None:
        return False
    sizes = [file.size for file in imported.files]
    try:
        await storage.count(work.session, model.tenant_id, version, storage.size_of(sizes))
    except QuotaExceeded as error:
        await settle_failed(work, version.id, model.tenant_id, error)
        return False
    await _insert_files(work, version.id, imported.files)
    await work.session.execute(
        update(ModelVersionRow)
        .where(ModelVersionRow.model_id == model.id, ModelVersionRow.name == version.name, ModelVersionRow.is_current)
        .values(is_current=False)
    )
    version.state, version.is_current = VersionState.normal, True
    version.total_bytes = sum(sizes)
    version.details = as_builtins(imported.metadata)
    version.verified_at = work.now()
    if model.default_version in (None, version.name):
        adopt_default(model, version)
        model.version += 1
    await _end(work.session, version.id)
    detail = {"model": model.name, "version": version.name, "source": order.source, "bytes": version.total_bytes}
    work.record("model.version.imported", "model_version", version.id, tenant_id=order.tenant_id, detail=detail)
    work.wake(RECONCILER)
    return True


async def reserve(session: AsyncSession, order: Order, sizes: Sequence[int]) -> bool:
    """Count what an import is about to write; False where its version was deleted. Raises `QuotaExceeded`."""
    version = await _importing(session, order.version_id)
    if version is None:
        return False
    await storage.count(session, order.tenant_id, version, storage.size_of(sizes))
    return True


async def settle_failed(work: Work, version_id: str, tenant_id: str | None, error: ApplianceError) -> None:
    """The version failed; what was half made is collected."""
    version = await _importing(work.session, version_id)
    if version is None:
        return
    files = error.refusals if isinstance(error, ModelRefused) else ()
    failure = ImportFailure(
        error.code, error.detail, [FailedFile(file.path, file.reason) for file in files[:MOST_SHOWN] if file.path]
    )
    await storage.count(work.session, tenant_id, version, 0)
    version.state, version.error = VersionState.failed, as_builtins(failure)
    await _end(work.session, version_id)
    detail = {"version": version.name, "code": error.code, "reason": error.detail[:500]}
    work.record("model.version.failed", "model_version", version_id, tenant_id=tenant_id, detail=detail)
    work.wake(RECONCILER)


async def _lock_model(session: AsyncSession, order: Order) -> ModelRow | None:
    return (await session.scalars(select(ModelRow).where(ModelRow.id == order.model_id).with_for_update())).first()


async def _importing(session: AsyncSession, version_id: str) -> ModelVersionRow | None:
    query = select(ModelVersionRow).where(ModelVersionRow.id == version_id).with_for_update()
    version = (await session.scalars(query)).first()
    if version is None or not can(VersionState(version.state), VersionAction.settle):
        return None
    return version


async def _insert_files(work: Work, version_id: str, files: Sequence[StoredFile]) -> None:
    dialect = work.session.get_bind().dialect.name
    insert_blob = sqlite.insert if dialect == "sqlite" else postgresql.insert
    now = work.now()
    blobs = [
        {"sha256": sha256, "size": size, "created_at": now}
        for sha256, size in sorted({file.sha256: file.size for file in files}.items())
    ]
    rows = [{"version_id": version_id, "path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
    for begin in range(0, len(blobs), BATCH):
        statement = insert_blob(BlobRow).values(blobs[begin : begin + BATCH])
        await work.session.execute(statement.on_conflict_do_nothing())
    await work.session.execute(insert(ModelFileRow), rows)


async def _end(session: AsyncSession, version_id: str) -> None:
    await session.execute(delete(ModelImportRow).where(ModelImportRow.version_id == version_id))
    await session.execute(delete(ModelUploadRow).where(ModelUploadRow.version_id == version_id))
    await session.flush()
