"""Removing what nothing refers to: superseded versions, blobs, trees, parts of uploads, half-made copies.

The database decides; each step may be repeated. A blob goes in two steps: first its row, then its file, and only
while no import claims it (`claims`), so that a crash between the two leaves a file that the next sweep finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from appliance.kernel.crashpoints import reached
from appliance.kernel.leases import Guarded
from appliance.models import storage
from appliance.models.claims import UnlessClaimed
from appliance.models.errors import UploadExpired
from appliance.models.repository import ModelRepository
from appliance.models.settling import BATCH, settle_failed
from appliance.models.states import UploadState, VersionState
from appliance.models.store import Store
from appliance.models.tables import BlobRow, ModelFileRow, ModelImportRow, ModelRow, ModelUploadRow, ModelVersionRow
from tenants.work import Work


async def expire_uploads(work: Work) -> int:
    """Fail the versions whose upload was not finished in time."""
    query = select(ModelUploadRow).where(
        ModelUploadRow.state == UploadState.open, ModelUploadRow.expires_at <= work.now()
    )
    uploads = list(await work.session.scalars(query))
    await storage.lock(work.session, ModelVersionRow.id.in_([upload.version_id for upload in uploads]))
    for upload in uploads:
        error = UploadExpired("the upload was not finished in time; begin a new one")
        await settle_failed(work, upload.version_id, upload.tenant_id, error)
    return len(uploads)


async def drop_superseded(work: Work, repository: ModelRepository) -> int:
    """Delete versions that another one has taken the name of, and that nothing uses any more."""
    query = (
        select(ModelVersionRow, ModelRow.tenant_id)
        .join(ModelRow, ModelRow.id == ModelVersionRow.model_id)
        .where(ModelVersionRow.state == VersionState.normal, ~ModelVersionRow.is_current)
    )
    found = (await work.session.execute(query)).all()
    users = await repository.users_of(work.session, [version.id for version, _ in found])
    await storage.lock(work.session, ModelVersionRow.id.in_([version.id for version, _ in found]))
    dropped = 0
    for version, tenant_id in found:
        if version.id in users:
            continue
        try:
            async with work.session.begin_nested():
                gone = ModelVersionRow.id == version.id
                await storage.give_back(work.session, gone)
                await work.session.execute(delete(ModelVersionRow).where(gone))
        except IntegrityError:
            continue  # taken into use by a domain that is not registered: it keeps its content
        work.record("model.version.collected", "model_version", version.id, tenant_id=tenant_id)
        dropped += 1
    return dropped


async def drop_blob_rows(work: Work) -> list[str]:
    """Delete the rows of blobs without a file row; their hashes."""
    unused = ~select(ModelFileRow.sha256).where(ModelFileRow.sha256 == BlobRow.sha256).exists()
    hashes = list(await work.session.scalars(select(BlobRow.sha256).where(unused)))
    for begin in range(0, len(hashes), BATCH):
        await work.session.execute(delete(BlobRow).where(BlobRow.sha256.in_(hashes[begin : begin + BATCH])))
    return hashes


async def unlink_blobs(repository: ModelRepository, hashes: Iterable[str], unless_claimed: UnlessClaimed) -> int:
    """Unlink these blobs, except what an import claims; how many went."""

    def unlink() -> int:
        return sum(unless_claimed(sha256, partial(_unlink, repository.store, sha256)) for sha256 in hashes)

    return await asyncio.to_thread(unlink)


def _unlink(store: Store, sha256: str) -> None:
    store.verified(sha256).unlink(missing_ok=True)
    store.blob(sha256).unlink(missing_ok=True)
    reached("model.blob.unlinked")


async def orphan_blobs(guarded: Guarded, store: Store) -> list[str]:
    """Blobs on disk without a row: what a crash left. Call while collecting, so that claims made since count."""
    async with guarded.read() as session:
        known = set(await session.scalars(select(BlobRow.sha256)))
    return await asyncio.to_thread(lambda: [sha256 for sha256 in store.stored_blobs() if sha256 not in known])


async def sweep_folders(guarded: Guarded, store: Store) -> int:
    """Remove trees, uploads and half-made copies that no row stands behind.

    The folders are listed before the rows are read: a row is committed before its folder is made.
    """
    folders = ("versions", "uploads", "incoming")
    found = await asyncio.to_thread(lambda: [(folder, name) for folder in folders for name in store.names_in(folder)])
    async with guarded.read() as session:
        states = {VersionState.importing, VersionState.normal}
        versions = set(await session.scalars(select(ModelVersionRow.id).where(ModelVersionRow.state.in_(states))))
        wanted = {
            "versions": versions,
            "uploads": set(await session.scalars(select(ModelUploadRow.id))),
            "incoming": set(await session.scalars(select(ModelImportRow.version_id))),
        }
    orphans = [(folder, name) for folder, name in found if name not in wanted[folder]]

    def discard() -> None:
        for folder, name in orphans:
            store.discard(folder, name)

    await asyncio.to_thread(discard)
    return len(orphans)
