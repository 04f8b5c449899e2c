"""What services need of the repository: which version a name means now, and where its files lie.

A service keeps the id that it was given. Another content under the same branch is another id, so that nothing
changes below a running engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.models import queries
from appliance.models.errors import VersionNotFound, VersionNotReady
from appliance.models.repository import ModelRepository
from appliance.models.schemas import VersionView
from appliance.models.states import VersionAction, VersionState, can
from appliance.models.tables import ModelRow, ModelVersionRow
from appliance.models.views import metadata_of
from tenants.scope import TenantScope

FolderOf = Callable[[AsyncSession, str], Awaitable[Path]]


async def version_for_service(
    session: AsyncSession, scope: TenantScope, model: str, version: str | None = None
) -> VersionView:
    """The version that `model` (name or id) and `version` (name, id, or None for the default) mean now.

    Raises `ModelNotFound`, `VersionNotFound`, `VersionNotReady` with the state or the reason of the failure.
    """
    row = await queries.find_model(scope, session, model)
    reference = version or row.default_version
    if reference is None:
        raise VersionNotReady(f"model {row.name!r} has no version yet; import or upload one")
    found = await queries.find_version(session, row, reference)
    if not can(VersionState(found.state), VersionAction.deploy):
        raise VersionNotReady(_reason(row, found))
    return _view(row, found)


def folder_of(repository: ModelRepository) -> FolderOf:
    """A function that gives the folder of a version by its id."""

    async def folder(session: AsyncSession, version_id: str) -> Path:
        found = await session.get(ModelVersionRow, version_id)
        if found is None:
            raise VersionNotFound(f"there is no model version {version_id!r} any more")
        return repository.store.tree(version_id)

    return folder


def _reason(model: ModelRow, version: ModelVersionRow) -> str:
    what = f"version {version.name!r} of model {model.name!r}"
    if version.state == VersionState.importing:
        return f"{what} is being imported; wait until it is normal"
    return f"{what} failed: {(version.error or {}).get('detail', 'import it again')}"


def _view(model: ModelRow, version: ModelVersionRow) -> VersionView:
    metadata = metadata_of(version)
    return VersionView(
        version_id=version.id,
        version_name=version.name,
        model_id=model.id,
        model_name=model.name,
        tenant_id=model.tenant_id,
        metadata=metadata,
        task_type=model.task_type or metadata.task_type,
        framework=model.framework or metadata.framework,
        quantised=metadata.quantisation is not None,
        encrypted=False,
        formats=metadata.formats,
        weight_bytes=metadata.weight_bytes,
        architectures=metadata.architectures,
    )
