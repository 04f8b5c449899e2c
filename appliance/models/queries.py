"""All SQL on models. A tenant sees its own models and those of the platform; everything else is not there.

Name lookups prefer the tenant's own model over a shared one of the same name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.ids import is_id
from appliance.kernel.pagination import PageRequest
from appliance.models.errors import ModelNameAmbiguous, ModelNotFound, UploadNotFound, VersionNotFound
from appliance.models.schemas import UploadSummary
from appliance.models.states import UploadKind, UploadState, VersionState
from appliance.models.tables import (
    ModelFileRow,
    ModelImportRow,
    ModelRow,
    ModelUploadFileRow,
    ModelUploadRow,
    ModelVersionRow,
)
from tenants.scope import TenantScope


def visible(scope: TenantScope) -> ColumnElement[bool]:
    return or_(scope.holds(ModelRow.tenant_id), ModelRow.tenant_id.is_(None))


async def list_models(
    scope: TenantScope,
    session: AsyncSession,
    page: PageRequest,
    *,
    task_type: str | None = None,
    framework: str | None = None,
    name_contains: str | None = None,
) -> list[ModelRow]:
    """One row more than the page, newest first; the filters look at what is in force."""
    query = select(ModelRow).where(visible(scope))
    if task_type is not None:
        query = query.where(func.coalesce(ModelRow.task_type, ModelRow.detected_task_type) == task_type)
    if framework is not None:
        query = query.where(func.coalesce(ModelRow.framework, ModelRow.detected_framework) == framework)
    if name_contains is not None:
        query = query.where(func.lower(ModelRow.name).contains(name_contains.lower(), autoescape=True))
    return list(await session.scalars(page.apply(query, ModelRow.id)))


async def models_of_tenant(session: AsyncSession, tenant_id: str) -> Mapping[str, int]:
    """How many models keep the tenant from being deleted."""
    count = await session.scalar(select(func.count()).where(ModelRow.tenant_id == tenant_id))
    return {"models": count or 0}


async def find_model(scope: TenantScope, session: AsyncSession, reference: str) -> ModelRow:
    """By id or by name; `ModelNotFound` for what is not there or not in the scope."""
    query = select(ModelRow).where(visible(scope))
    if is_id(reference, "mdl"):
        row = await session.scalar(query.where(ModelRow.id == reference))
    else:
        row = await _by_name(scope, session, query.where(ModelRow.name == reference))
    if row is None:
        raise ModelNotFound(f"there is no model {reference!r}; list the models to see which there are")
    return row


async def _by_name(scope: TenantScope, session: AsyncSession, query: Select[ModelRow]) -> ModelRow | None:
    own_first = case((ModelRow.tenant_id.is_(None), 1), else_=0)
    rows = list(await session.scalars(query.order_by(own_first).limit(2)))
    if scope.tenant_id is None and len(rows) > 1:
        raise ModelNameAmbiguous(
            f"{rows[0].name!r} is a model of several tenants; give its id, or the tenant in the header Appliance-Tenant"
        )
    return rows[0] if rows else None


async def lock_model(session: AsyncSession, model_id: str) -> ModelRow:
    """The row, held until the transaction ends, so that changes of one model's versions follow one another."""
    return (await session.scalars(select(ModelRow).where(ModelRow.id == model_id).with_for_update())).one()


async def list_versions(session: AsyncSession, model_id: str, page: PageRequest) -> list[ModelVersionRow]:
    """Newest first, one more than the page. A model in the caller's scope is the caller's to look into."""
    query = select(ModelVersionRow).where(ModelVersionRow.model_id == model_id)
    return list(await session.scalars(page.apply(query, ModelVersionRow.id)))


async def version_names(session: AsyncSession, model_id: str) -> dict[str, str]:
    """The names of all the model's versions by id."""
    query = select(ModelVersionRow.id, ModelVersionRow.name).where(ModelVersionRow.model_id == model_id)
    return dict((await session.execute(query)).all())


async def find_version(session: AsyncSession, model: ModelRow, reference: str) -> ModelVersionRow:
    """By id, or by name: the current content, or else the import that is under way or failed last."""
    query = select(ModelVersionRow).where(ModelVersionRow.model_id == model.id)
    if is_id(reference, "ver"):
        query = query.where(ModelVersionRow.id == reference)
    else:
        superseded = (ModelVersionRow.state == VersionState.normal) & ~ModelVersionRow.is_current
        query = query.where(ModelVersionRow.name == reference, ~superseded)
        query = query.order_by(ModelVersionRow.is_current.desc(), ModelVersionRow.id.desc())
    row = (await session.scalars(query.limit(1))).first()
    if row is None:
        raise VersionNotFound(f"model {model.name!r} has no version {reference!r}")
    return row


async def current_version(session: AsyncSession, model_id: str, name: str) -> ModelVersionRow | None:
    query = select(ModelVersionRow).where(
        ModelVersionRow.model_id == model_id, ModelVersionRow.name == name, ModelVersionRow.is_current
    )
    return (await session.scalars(query)).first()


async def list_files(session: AsyncSession, version_id: str) -> list[ModelFileRow]:
    query = select(ModelFileRow).where(ModelFileRow.version_id == version_id).order_by(ModelFileRow.path)
    return list(await session.scalars(query))


async def imports_of(session: AsyncSession, version_ids: Collection[str]) -> dict[str, ModelImportRow]:
    query = select(ModelImportRow).where(ModelImportRow.version_id.in_(version_ids))
    return {row.version_id: row for row in await session.scalars(query)}


async def find_upload(session: AsyncSession, model: ModelRow, upload_id: str) -> ModelUploadRow:
    query = select(ModelUploadRow).where(ModelUploadRow.id == upload_id, ModelUploadRow.model_id == model.id)
    row = (await session.scalars(query)).first()
    if row is None:
        raise UploadNotFound(f"model {model.name!r} has no upload {upload_id!r}; it may have ended or expired")
    return row


async def list_uploads(session: AsyncSession, model_id: str, page: PageRequest) -> list[UploadSummary]:
    """Newest first, one more than the page."""
    uploads = page.apply(select(ModelUploadRow).where(ModelUploadRow.model_id == model_id), ModelUploadRow.id)
    rows = (await session.scalars(uploads)).all()
    announced = (
        select(ModelUploadFileRow.upload_id, func.count(), func.sum(ModelUploadFileRow.size))
        .where(ModelUploadFileRow.upload_id.in_([row.id for row in rows]))
        .group_by(ModelUploadFileRow.upload_id)
    )
    totals = {upload_id: (files, int(size)) for upload_id, files, size in await session.execute(announced)}
    return [_summary(row, *totals.get(row.id, (0, 0))) for row in rows]


def _summary(row: ModelUploadRow, files: int, size: int) -> UploadSummary:
    return UploadSummary(
        id=row.id,
        model_id=row.model_id,
        version_id=row.version_id,
        content=UploadKind(row.kind),
        state=UploadState(row.state),
        files=files,
        size=size,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def find_upload_file(session: AsyncSession, upload: ModelUploadRow, path: str) -> ModelUploadFileRow:
    query = select(ModelUploadFileRow).where(ModelUploadFileRow.upload_id == upload.id, ModelUploadFileRow.path == path)
    row = (await session.scalars(query)).first()
    if row is None:
        raise UploadNotFound(f"upload {upload.id!r} did not announce a file {path!r}")
    return row


async def upload_files(session: AsyncSession, upload_id: str) -> Sequence[ModelUploadFileRow]:
    query = select(ModelUploadFileRow).where(ModelUploadFileRow.upload_id == upload_id)
    return list(await session.scalars(query.order_by(ModelUploadFileRow.number)))
