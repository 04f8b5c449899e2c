"""Routes of resumable uploads, after tus 1.0: HEAD tells the offset, PATCH appends there, any number of times.

1. `POST .../uploads` announces every file with its length and SHA-256; names that cannot be part of a model are
   refused before a byte is sent.
2. For each file: `PATCH .../uploads/{id}/files/{path}` with `Upload-Offset: <n>` and the bytes from n on as body,
   in one request or in many. After a broken connection `HEAD` gives the offset to go on from. The request that
   brings the last byte checks the SHA-256; a wrong one empties the file.
3. `POST .../uploads/{id}/finish` orders the check of the whole; the version then becomes normal or failed.

Chunks change no row and leave no audit row; announcing, finishing and aborting do.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, head, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.problems import problems
from appliance.api.work import open_work
from appliance.kernel.pagination import Page, PageRequest
from appliance.models import operations, queries
from appliance.models import uploads as uploading
from appliance.models.errors import (
    ImportRunning,
    InsufficientStorage,
    ModelNotFound,
    ModelRefused,
    ModelShared,
    UploadBusy,
    UploadClosed,
    UploadDigestMismatch,
    UploadIncomplete,
    UploadNotFound,
    UploadOffsetMismatch,
    UploadStalled,
    UploadTooLarge,
    VersionImmutable,
)
from appliance.models.receiving import receive
from appliance.models.schemas import NewUpload, Upload, UploadSummary, Version
from appliance.models.tables import ModelUploadFileRow
from appliance.models.views import version_view
from tenants.permissions import Permission
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Models"]
UPLOADS = "/models/{model:str}/uploads"
UPLOAD = UPLOADS + "/{upload:str}"
FILE = UPLOAD + "/files/{path:path}"
BYTES = "application/offset+octet-stream"

Offset = Annotated[int, HeaderParameter(name="Upload-Offset", ge=0, description="where the bytes begin in the file")]


OFFSET_HEADER = {"Upload-Offset": "where the file ends now"}


@post(
    UPLOADS,
    permission=Permission.model_write,
    responses=problems(
        ModelNotFound, ModelShared, ModelRefused, UploadTooLarge, InsufficientStorage, VersionImmutable, ImportRunning
    ),
    tags=TAGS,
)
async def open_upload(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], data: JSONBody[NewUpload]
) -> Response[Upload]:
    """Announce the files of a new version, or one archive that holds them."""
    repository = context_of(request).parts.models

    async def create() -> Upload:
        row = await operations.find_own_model(work, model)
        upload = await uploading.open_upload(work, repository, row, data)
        return uploading.upload_view(repository, upload, await queries.upload_files(work.session, upload.id))

    return await once(request, work, create)


@get(UPLOADS, permission=Permission.model_read, responses=problems(ModelNotFound), tags=TAGS)
async def list_uploads(
    work: NamedDependency[Work], model: FromPath[str], page: NamedDependency[PageRequest]
) -> Page[UploadSummary]:
    """List the uploads that have not ended, newest first."""
    row = await queries.find_model(work.scope, work.session, model)
    uploads = await queries.list_uploads(work.session, row.id, page)
    return page.page(uploads, [upload.id for upload in uploads])


@get(UPLOAD, permission=Permission.model_read, responses=problems(ModelNotFound, UploadNotFound), tags=TAGS)
async def get_upload(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], upload: FromPath[str]
) -> Upload:
    """Show an upload: how many bytes of each file are there, and which are complete."""
    row = await queries.find_model(work.scope, work.session, model)
    found = await queries.find_upload(work.session, row, upload)
    files = await queries.upload_files(work.session, found.id)
    return uploading.upload_view(context_of(request).parts.models, found, files)


@head(
    FILE,
    permission=Permission.model_read,
    responses=problems(ModelNotFound, UploadNotFound),
    response_headers=OFFSET_HEADER | {"Upload-Length": "the announced size"},
    tags=TAGS,
)
async def get_upload_offset(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], upload: FromPath[str], path: FromPath[str]
) -> Response[None]:
    """Where to go on: `Upload-Offset` bytes of `Upload-Length` are there."""
    row = await queries.find_model(work.scope, work.session, model)
    found = await queries.find_upload(work.session, row, upload)
    file = await queries.find_upload_file(work.session, found, path.removeprefix("/"))
    part = uploading.part_of(context_of(request).parts.models, file)
    return Response(None, headers={**_offset(part.received), "Upload-Length": str(file.size)})


@patch(
    FILE,
    status_code=204,
    permission=Permission.model_write,
    unaudited=True,
    body_media_type=BYTES,
    request_max_body_size=None,
    response_headers=OFFSET_HEADER,
    responses=problems(
        ModelNotFound,
        ModelShared,
        UploadNotFound,
        UploadClosed,
        UploadOffsetMismatch,
        UploadBusy,
        UploadTooLarge,
        UploadDigestMismatch,
        UploadStalled,
        InsufficientStorage,
    ),
    tags=TAGS,
)
async def append_to_upload(
    request: AnyRequest, model: FromPath[str], upload: FromPath[str], path: FromPath[str], offset: Offset
) -> Response[None]:
    """Append bytes to a file at its present end. The answer's `Upload-Offset` is the new end."""
    repository = context_of(request).parts.models
    async with open_work(request) as work:  # closed before the first byte is read
        file = await _open_file(work, model, upload, path.removeprefix("/"))
    part = uploading.part_of(repository, file)
    uploading.require_room(file, offset, request.content_length)
    end = await receive(part, file.sha256, request.stream(), offset=offset, digests=repository.digests)
    return Response(None, status_code=204, headers=_offset(end))


async def _open_file(work: Work, model: str, upload: str, path: str) -> ModelUploadFileRow:
    row = await operations.find_own_model(work, model)
    found = await queries.find_upload(work.session, row, upload)
    uploading.require_open(found)
    return await queries.find_upload_file(work.session, found, path)


@post(
    UPLOAD + "/finish",
    status_code=202,
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, UploadNotFound, UploadClosed, UploadIncomplete),
    tags=TAGS,
)
async def finish_upload(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], upload: FromPath[str]
) -> Response[Version]:
    """Check and store what was uploaded. The version shows the progress, and ends as normal or failed."""

    async def create() -> Version:
        row = await operations.find_own_model(work, model)
        found = await queries.find_upload(work.session, row, upload)
        repository = context_of(request).parts.models
        return version_view(*await uploading.finish_upload(work, repository, row, found))

    return await once(request, work, create, status=202)


@delete(
    UPLOAD,
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, UploadNotFound),
    tags=TAGS,
)
async def abort_upload(work: NamedDependency[Work], model: FromPath[str], upload: FromPath[str]) -> None:
    """Give an upload up; what has arrived is removed."""
    row = await operations.find_own_model(work, model)
    found = await queries.find_upload(work.session, row, upload)
    await uploading.abort_upload(work, row, found)


def _offset(value: int) -> dict[str, str]:
    return {"Upload-Offset": str(value)}


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [open_upload, list_uploads, get_upload, get_upload_offset, append_to_upload, finish_upload, abort_upload]
