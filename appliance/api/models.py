"""Routes of the model repository. Importing a folder of the server is for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, with_etag
from appliance.api.problems import problems
from appliance.kernel.errors import StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.models import operations, queries, versions
from appliance.models.errors import (
    ImportNotAllowed,
    ImportRunning,
    ModelInUse,
    ModelNameAmbiguous,
    ModelNameTaken,
    ModelNotFound,
    ModelShared,
    VersionImmutable,
    VersionNotFound,
    VersionNotReady,
)
from appliance.models.schemas import File, Model, ModelChange, NewImport, NewModel, NewTag, Version
from appliance.models.views import file_view, model_view, version_view
from tenants.permissions import Permission
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Models"]


@get("/models", permission=Permission.model_read, responses=problems(), tags=TAGS)
async def list_models(
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    task_type: Annotated[
        str | None, QueryParameter(description="only models for this task, e.g. text-generation")
    ] = None,
    framework: Annotated[
        str | None, QueryParameter(description="only models of this framework, e.g. transformers")
    ] = None,
    name: Annotated[str | None, QueryParameter(description="part of the name")] = None,
) -> Page[Model]:
    """List the tenant's models and those that the platform shares, newest first."""
    rows = await queries.list_models(
        work.scope, work.session, page, task_type=task_type, framework=framework, name_contains=name
    )
    return page.page([model_view(row) for row in rows], [row.id for row in rows])


@post("/models", permission=Permission.model_write, responses=problems(ModelNameTaken), tags=TAGS)
async def create_model(request: AnyRequest, work: NamedDependency[Work], data: JSONBody[NewModel]) -> Response[Model]:
    """Create a model without a version; its content comes by upload or import."""

    async def create() -> Model:
        return model_view(await operations.create_model(work, data))

    return await once(request, work, create)


@get("/models/{model:str}", permission=Permission.model_read, responses=problems(ModelNotFound), tags=TAGS)
async def get_model(work: NamedDependency[Work], model: FromPath[str]) -> Response[Model]:
    """Show a model by its name or id."""
    row = await queries.find_model(work.scope, work.session, model)
    return with_etag(model_view(row), row.version)


@patch(
    "/models/{model:str}",
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, VersionNotReady, StaleVersion, ModelNameAmbiguous),
    tags=TAGS,
)
async def change_model(
    work: NamedDependency[Work], model: FromPath[str], data: JSONBody[ModelChange], if_match: IfMatch = None
) -> Response[Model]:
    """Change description, task type, framework or the default version; an edited value wins over a detected one."""
    row = expected(await operations.find_own_model(work, model), if_match)
    await operations.change_model(work, row, data)
    return with_etag(model_view(row), row.version)


@delete(
    "/models/{model:str}",
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, ModelInUse, StaleVersion),
    tags=TAGS,
)
async def delete_model(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], if_match: IfMatch = None
) -> None:
    """Delete a model with all its versions; refused, with the reason, while a service uses one."""
    row = expected(await operations.find_own_model(work, model), if_match)
    await operations.delete_model(work, context_of(request).parts.models, row)


@get("/models/{model:str}/versions", permission=Permission.model_read, responses=problems(ModelNotFound), tags=TAGS)
async def list_versions(
    work: NamedDependency[Work], model: FromPath[str], page: NamedDependency[PageRequest]
) -> Page[Version]:
    """List a model's versions, newest first, with the progress of those that are being imported."""
    row = await queries.find_model(work.scope, work.session, model)
    rows = await queries.list_versions(work.session, row.id, page)
    running = await queries.imports_of(work.session, [version.id for version in rows])
    views = [version_view(version, running.get(version.id)) for version in rows]
    return page.page(views, [version.id for version in rows])


@get(
    "/models/{model:str}/versions/{version:str}",
    permission=Permission.model_read,
    responses=problems(ModelNotFound, VersionNotFound),
    tags=TAGS,
)
async def get_version(work: NamedDependency[Work], model: FromPath[str], version: FromPath[str]) -> Version:
    """Show a version by its name or id: state, what was detected, and the reason where it failed."""
    row = await queries.find_model(work.scope, work.session, model)
    found = await queries.find_version(work.session, row, version)
    running = await queries.imports_of(work.session, [found.id])
    return version_view(found, running.get(found.id))


@get(
    "/models/{model:str}/versions/{version:str}/files",
    permission=Permission.model_read,
    responses=problems(ModelNotFound, VersionNotFound),
    tags=TAGS,
)
async def list_files(work: NamedDependency[Work], model: FromPath[str], version: FromPath[str]) -> list[File]:
    """List the files of a version with their lengths and SHA-256."""
    row = await queries.find_model(work.scope, work.session, model)
    found = await queries.find_version(work.session, row, version)
    return [file_view(file) for file in await queries.list_files(work.session, found.id)]


@delete(
    "/models/{model:str}/versions/{version:str}",
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, VersionNotFound, ModelInUse),
    tags=TAGS,
)
async def delete_version(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], version: FromPath[str]
) -> None:
    """Delete a version, or stop its import; refused, with the reason, while a service uses it."""
    row = await operations.find_own_model(work, model)
    found = await queries.find_version(work.session, row, version)
    await versions.delete_version(work, context_of(request).parts.models, row, found)


@post(
    "/models/{model:str}/versions/{version:str}/tags",
    status_code=202,
    permission=Permission.model_write,
    responses=problems(ModelNotFound, ModelShared, VersionNotFound, VersionNotReady, VersionImmutable, ImportRunning),
    tags=TAGS,
)
async def tag_version(
    request: AnyRequest,
    work: NamedDependency[Work],
    model: FromPath[str],
    version: FromPath[str],
    data: JSONBody[NewTag],
) -> Response[Version]:
    """Give what the version holds now a further name that never changes. The tag is normal a moment later."""

    async def create() -> Version:
        row = await operations.find_own_model(work, model)
        found = await queries.find_version(work.session, row, version)
        return version_view(await versions.tag_version(work, row, found, data.name))

    return await once(request, work, create, status=202)


@post(
    "/models/{model:str}/imports",
    status_code=202,
    permission=Permission.platform_write,
    responses=problems(ModelNotFound, ImportNotAllowed, VersionImmutable, ImportRunning),
    tags=TAGS,
)
async def import_directory(
    request: AnyRequest, work: NamedDependency[Work], model: FromPath[str], data: JSONBody[NewImport]
) -> Response[Version]:
    """Import a folder of the server as a version. The version shows the progress, and ends as normal or failed."""

    async def create() -> Version:
        row = await operations.find_own_model(work, model)
        repository = context_of(request).parts.models
        return version_view(*await versions.import_directory(work, repository, row, data))

    return await once(request, work, create, status=202)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [
        list_models,
        create_model,
        get_model,
        change_model,
        delete_model,
        list_versions,
        get_version,
        list_files,
        delete_version,
        tag_version,
    ]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [import_directory]
