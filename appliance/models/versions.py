"""Beginning, tagging and deleting versions. What takes time is only ordered here; the reconciler does it."""

from __future__ import annotations

from sqlalchemy import delete, select

from appliance.kernel.errors import BadInput
from appliance.kernel.ids import is_id, new_id
from appliance.models import queries, storage
from appliance.models.directories import allowed_directory
from appliance.models.errors import ImportRunning, VersionImmutable, VersionNotReady
from appliance.models.names import RECONCILER
from appliance.models.operations import refuse_in_use, remove
from appliance.models.progress import Phase
from appliance.models.repository import ModelRepository
from appliance.models.schemas import NewImport
from appliance.models.states import Source, VersionAction, VersionKind, VersionState, can
from appliance.models.tables import ModelImportRow, ModelRow, ModelVersionRow
from tenants.work import Work


async def begin_version(work: Work, model: ModelRow, name: str, kind: VersionKind) -> ModelVersionRow:
    """A new version in the state `importing`; earlier failed ones of the name go. `model` is locked.

    Raises `VersionImmutable` where the name is a tag's or of the other kind, `ImportRunning` where one is under way.
    """
    if is_id(name, "ver"):
        raise BadInput(f"{name!r} looks like an id; choose another name")
    current = await queries.current_version(work.session, model.id, name)
    if current is not None and VersionKind.tag in (current.kind, kind):
        raise VersionImmutable(f"{name!r} of model {model.name!r} is a {current.kind} already; choose another name")
    of_name = (ModelVersionRow.model_id == model.id) & (ModelVersionRow.name == name)
    importing = of_name & (ModelVersionRow.state == VersionState.importing)
    if await work.session.scalar(select(ModelVersionRow.id).where(importing)) is not None:
        raise ImportRunning(f"{name!r} of {model.name!r} is being imported; wait, or delete that version")
    failed = of_name & (ModelVersionRow.state == VersionState.failed)
    await work.session.execute(delete(ModelVersionRow).where(failed))
    row = ModelVersionRow(
        id=new_id("ver"),
        model_id=model.id,
        name=name,
        kind=kind,
        state=VersionState.importing,
        is_current=False,
        total_bytes=0,
        details={},
        created_at=work.now(),
    )
    work.session.add(row)
    await work.session.flush()
    return row


async def order_import(work: Work, version: ModelVersionRow, source: Source, location: str) -> ModelImportRow:
    """Commit to importing `version`; the reconciler begins after the transaction, and again after a crash."""
    row = ModelImportRow(
        version_id=version.id,
        source=source,
        location=location,
        phase=Phase.queued,
        bytes_done=0,
        bytes_total=0,
        created_at=work.now(),
    )
    work.session.add(row)
    await work.session.flush()
    work.wake(RECONCILER)
    return row


async def import_directory(
    work: Work, repository: ModelRepository, model: ModelRow, new: NewImport
) -> tuple[ModelVersionRow, ModelImportRow]:
    """Order the import of a folder of the server as a version of `model` (from `find_own_model`)."""
    directory = allowed_directory(new.directory, repository.import_roots)
    version = await begin_version(work, model, new.version, new.kind)
    running = await order_import(work, version, Source.directory, str(directory))
    detail = {"model": model.name, "version": new.version, "directory": str(directory)}
    work.record("model.version.import_ordered", "model_version", version.id, tenant_id=model.tenant_id, detail=detail)
    return version, running


async def tag_version(work: Work, model: ModelRow, version: ModelVersionRow, name: str) -> ModelVersionRow:
    """Order a tag of what `version` holds; the content is shared, so this takes next to no space or time."""
    if not can(VersionState(version.state), VersionAction.tag):
        raise VersionNotReady(f"version {version.name!r} is {version.state}; only a normal one can be tagged")
    tag = await begin_version(work, model, name, VersionKind.tag)
    await storage.count(work.session, model.tenant_id, tag, max(version.counted_bytes, version.total_bytes))
    await order_import(work, tag, Source.version, version.id)
    detail = {"model": model.name, "version": version.name, "tag": name}
    work.record("model.version.tag_ordered", "model_version", tag.id, tenant_id=model.tenant_id, detail=detail)
    return tag


async def delete_version(work: Work, repository: ModelRepository, model: ModelRow, version: ModelVersionRow) -> None:
    """Remove a version, or stop its import; `ModelInUse` names what uses it."""
    users = await repository.users_of(work.session, [version.id])
    refuse_in_use(model, {version.name: users[version.id]} if users else {})
    await storage.give_back(work.session, ModelVersionRow.id == version.id)
    await remove(work.session, ModelVersionRow, version.id, f"version {version.name!r} of model {model.name!r}")
    if version.is_current and model.default_version == version.name:
        model.default_version = model.detected_task_type = model.detected_framework = None
        model.version += 1
        await work.session.flush()
    detail = {"model": model.name, "version": version.name}
    work.record("model.version.deleted", "model_version", version.id, tenant_id=model.tenant_id, detail=detail)
    work.wake(RECONCILER)
