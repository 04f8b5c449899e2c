"""Resumable uploads: announcing, finishing and aborting them. The bytes themselves arrive through `receiving`.

An upload announces every file with its length and SHA-256. Bytes then come in any number of requests, in order
within a file, files in any order or side by side; a cut connection costs what was not yet written. `finish` orders
the check of the whole; the version becomes normal or failed, and the upload is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete

from appliance.kernel.errors import BadInput
from appliance.kernel.ids import new_id
from appliance.models import queries, storage
from appliance.models.archives import SUFFIXES, is_archive
from appliance.models.copying import require_space
from appliance.models.errors import ModelRefused, Refusal, UploadClosed, UploadIncomplete, UploadTooLarge
from appliance.models.inspection import check_names
from appliance.models.names import RECONCILER
from appliance.models.parts import EMPTY_SHA256, Arrived, Part
from appliance.models.paths import path_problem
from appliance.models.repository import ModelRepository
from appliance.models.schemas import NewUpload, Upload, UploadFile, UploadProgress
from appliance.models.states import Source, UploadKind, UploadState
from appliance.models.tables import ModelImportRow, ModelRow, ModelUploadFileRow, ModelUploadRow, ModelVersionRow
from appliance.models.versions import begin_version, order_import
from tenants.work import Work

LIFETIME: Final = timedelta(days=7)
"""An upload that is not finished by then is removed: at 100 Mbit/s enough for 7 TB."""


async def open_upload(work: Work, repository: ModelRepository, model: ModelRow, new: NewUpload) -> ModelUploadRow:
    """Announce an upload; names, sizes and space are checked before a byte is sent."""
    _check(new, repository)
    version = await begin_version(work, model, new.version, new.kind)
    await storage.count(work.session, model.tenant_id, version, storage.size_of(file.size for file in new.files))
    upload = ModelUploadRow(
        id=new_id("upl"),
        tenant_id=model.tenant_id,
        model_id=model.id,
        version_id=version.id,
        kind=new.content,
        state=UploadState.open,
        created_at=work.now(),
        expires_at=work.now() + LIFETIME,
    )
    work.session.add(upload)
    await work.session.flush()
    work.session.add_all(
        ModelUploadFileRow(upload_id=upload.id, number=number, path=file.path, size=file.size, sha256=file.sha256)
        for number, file in enumerate(new.files)
    )
    await work.session.flush()
    detail = {"model": model.name, "version": new.version, "files": len(new.files)}
    work.record("model.upload.opened", "model_upload", upload.id, tenant_id=model.tenant_id, detail=detail)
    return upload


def _check(new: NewUpload, repository: ModelRepository) -> None:
    total = sum(file.size for file in new.files)
    if total > repository.upload_bytes:
        raise UploadTooLarge(
            f"the files have {total} bytes together, at most {repository.upload_bytes} are allowed "
            f"(limits.upload_bytes)"
        )
    if new.content is UploadKind.archive:
        _check_archive(new.files)
    else:
        check_names(file.path for file in new.files)
    for file in new.files:
        if file.size == 0 and file.sha256 != EMPTY_SHA256:
            raise ModelRefused([Refusal(file.path, "it has no bytes, but the SHA-256 is not that of none")])
    require_space(repository.store.free_bytes(), total)


def _check_archive(files: Sequence[UploadFile]) -> None:
    if len(files) != 1:
        raise BadInput(f"an archive upload has one file, not {len(files)}")
    if not is_archive(files[0].path):
        raise BadInput(f"{files[0].path!r} is no archive that is understood; use {', '.join(SUFFIXES)}")
    if "/" in files[0].path or path_problem(files[0].path):
        raise BadInput(f"{files[0].path!r} is not the plain name of an archive")


def require_open(upload: ModelUploadRow) -> None:
    """Raise `UploadClosed` once the upload is being checked."""
    if upload.state != UploadState.open:
        raise UploadClosed("the upload is being checked already; look at its version")


async def finish_upload(
    work: Work, repository: ModelRepository, model: ModelRow, upload: ModelUploadRow
) -> tuple[ModelVersionRow, ModelImportRow]:
    """Order the check and storing of what was uploaded; `UploadIncomplete` names what is missing."""
    require_open(upload)
    files = await queries.upload_files(work.session, upload.id)
    folder = Arrived(repository.store.upload(upload.id))
    missing = [file.path for file in files if not folder.is_complete(file.number, file.size)]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise UploadIncomplete(f"not complete: {', '.join(missing[:10])}{more}; send the rest, then finish again")
    upload.state = UploadState.finishing
    version = await work.session.get_one(ModelVersionRow, upload.version_id)
    source = Source.archive if upload.kind == UploadKind.archive else Source.upload
    running = await order_import(work, version, source, upload.id)
    work.record("model.upload.finished", "model_upload", upload.id, tenant_id=model.tenant_id)
    return version, running


async def abort_upload(work: Work, model: ModelRow, upload: ModelUploadRow) -> None:
    """Remove the upload and its version; the parts are collected afterwards."""
    gone = ModelVersionRow.id == upload.version_id
    await storage.give_back(work.session, gone)
    await work.session.execute(delete(ModelVersionRow).where(gone))
    work.record("model.upload.aborted", "model_upload", upload.id, tenant_id=model.tenant_id)
    work.wake(RECONCILER)


def part_of(repository: ModelRepository, file: ModelUploadFileRow) -> Part:
    return Part(repository.store.upload(file.upload_id), file.number, file.size)


def require_room(file: ModelUploadFileRow, offset: int, length: int | None) -> None:
    """Raise `UploadTooLarge` before reading a body that says itself that it does not fit."""
    if length is not None and offset + length > file.size:
        raise UploadTooLarge(f"{length} bytes at {offset} pass the file's announced {file.size} bytes")


def upload_view(repository: ModelRepository, upload: ModelUploadRow, files: Sequence[ModelUploadFileRow]) -> Upload:
    """With how much of each file has arrived, as the disk has it."""
    folder = Arrived(repository.store.upload(upload.id))
    return Upload(
        id=upload.id,
        model_id=upload.model_id,
        version_id=upload.version_id,
        content=UploadKind(upload.kind),
        state=UploadState(upload.state),
        files=[_progress(file, folder) for file in files],
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )


def _progress(file: ModelUploadFileRow, folder: Arrived) -> UploadProgress:
    received, complete = folder.received(file.number, file.size), folder.is_complete(file.number, file.size)
    return UploadProgress(file.path, file.size, file.sha256, received, complete)
