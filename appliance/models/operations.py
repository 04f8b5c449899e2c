"""Creating, changing and deleting models. Nothing commits here; the blobs and trees of what goes are collected
by the reconciler.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import BadInput
from appliance.kernel.ids import is_id, new_id
from appliance.models import queries, storage
from appliance.models.errors import ModelInUse, ModelNameTaken, ModelShared, VersionNotReady
from appliance.models.names import RECONCILER
from appliance.models.repository import ModelRepository
from appliance.models.schemas import ModelChange, NewModel
from appliance.models.tables import ModelRow, ModelVersionRow
from appliance.models.views import metadata_of
from tenants.permissions import Permission
from tenants.work import Work

EDITABLE: Final = frozenset({"description", "task_type", "framework"})


async def create_model(work: Work, new: NewModel) -> ModelRow:
    """A model without a version yet, of the actor's tenant, or shared where `new.shared` and the actor may."""
    if new.shared:
        work.actor.require(Permission.platform_write)
    tenant_id = None if new.shared else work.scope.one()
    if is_id(new.name, "mdl"):
        raise BadInput(f"{new.name!r} looks like an id; choose another name")
    row = ModelRow(
        id=new_id("mdl"),
        tenant_id=tenant_id,
        name=new.name,
        description=new.description,
        task_type=new.task_type,
        framework=new.framework,
        created_at=work.now(),
    )
    await _insert(work.session, row)
    work.record("model.created", "model", row.id, tenant_id=tenant_id, detail={"name": row.name})
    return row


async def _insert(session: AsyncSession, row: ModelRow) -> None:
    try:
        async with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise ModelNameTaken(f"there is a model {row.name!r} already; choose another name") from error


async def find_own_model(work: Work, reference: str) -> ModelRow:
    """The model, locked, for a change by the actor: its tenant's, or a shared one where the actor may."""
    found = await queries.find_model(work.scope, work.session, reference)
    if found.tenant_id is None and Permission.platform_write not in work.actor.permissions:
        raise ModelShared(f"{found.name!r} is shared by the platform; only an administrator changes it")
    return await queries.lock_model(work.session, found.id)


async def change_model(work: Work, model: ModelRow, change: ModelChange) -> ModelRow:
    """Apply what is set in `change`; `model` comes from `find_own_model`."""
    given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
    if change.default_version is not msgspec.UNSET:
        await _take_default(work.session, model, change.default_version)
    for field in EDITABLE & given.keys():
        setattr(model, field, given[field])
    model.version += 1
    await work.session.flush()
    work.record("model.changed", "model", model.id, tenant_id=model.tenant_id, detail={"changed": sorted(given)})
    return model


async def _take_default(session: AsyncSession, model: ModelRow, name: str) -> None:
    version = await queries.current_version(session, model.id, name)
    if version is None:
        raise VersionNotReady(f"{name!r} is no version of {model.name!r} in the state normal")
    adopt_default(model, version)


def adopt_default(model: ModelRow, version: ModelVersionRow) -> None:
    """Make `version` the default: what was detected in it holds for the model where nothing was edited."""
    metadata = metadata_of(version)
    model.default_version = version.name
    model.detected_task_type = metadata.task_type
    model.detected_framework = metadata.framework


async def delete_model(work: Work, repository: ModelRepository, model: ModelRow) -> None:
    """Remove the model with all versions and uploads; `ModelInUse` names what still uses one of them."""
    versions = await queries.version_names(work.session, model.id)
    users = await repository.users_of(work.session, versions)
    refuse_in_use(model, {versions[version_id]: names for version_id, names in users.items()})
    await storage.give_back(work.session, ModelVersionRow.model_id == model.id)
    await remove(work.session, ModelRow, model.id, f"model {model.name!r}")
    work.record("model.deleted", "model", model.id, tenant_id=model.tenant_id, detail={"name": model.name})
    work.wake(RECONCILER)


def refuse_in_use(model: ModelRow, users: dict[str, list[str]]) -> None:
    """Raise `ModelInUse` where `users` (by version name) holds anyone."""
    if users:
        listed = "; ".join(f"version {name!r} by {', '.join(by)}" for name, by in sorted(users.items()))
        raise ModelInUse(f"model {model.name!r} is in use: {listed}; delete or change what uses it first")


async def remove(session: AsyncSession, table: type[ModelRow | ModelVersionRow], row_id: str, what: str) -> None:
    """Delete by id; a foreign key of another domain that came in between is `ModelInUse`."""
    try:
        async with session.begin_nested():
            await session.execute(delete(table).where(table.id == row_id))
    except IntegrityError as error:
        raise ModelInUse(f"{what} has just been taken into use; delete or change what uses it first") from error
