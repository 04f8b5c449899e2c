"""Routes of runtimes and images. Everyone may read them; images are registered by the platform."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.problems import problems
from appliance.kernel.errors import NameTaken, NotFound
from appliance.kernel.pagination import Page, PageRequest
from appliance.runtimes import images
from appliance.runtimes.errors import RuntimeNotStartable
from appliance.runtimes.schemas import Image, ImageRegister, Runtime
from appliance.runtimes.spec import RuntimeSpec
from appliance.runtimes.views import show_runtime
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Runtimes"]

OfRuntime = Annotated[str | None, QueryParameter(name="runtime", description="only those of this runtime")]


@get("/runtimes", permission=Permission.compute_read, tags=TAGS, responses=problems())
async def list_runtimes(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],  # noqa: ARG001 - authenticates
) -> Page[Runtime]:
    """The engines: what each serves, on which devices, and what may be set of it. All on one page."""
    specs = context_of(request).parts.catalog.all()
    return Page([await _shown(request, spec) for spec in specs], None)


@get("/runtimes/{runtime:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_runtime(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],  # noqa: ARG001 - authenticates
    runtime: FromPath[str],
) -> Runtime:
    """One engine, by name."""
    return await _shown(request, context_of(request).parts.catalog.get(runtime))


@get("/images", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def list_images(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    runtime: OfRuntime = None,
) -> Page[Image]:
    """The images that replicas are launched from: the registered ones, then each runtime's own."""
    catalog = context_of(request).parts.catalog
    if runtime is not None:
        catalog.get(runtime)
    found = await images.list_images(work.session, page, runtime=runtime)
    if found.next_cursor is not None:
        return found
    own = [image for image in images.default_images(catalog) if runtime in (None, image.runtime)]
    return Page([*found.items, *own], None)


@post(
    "/images",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, NameTaken, RuntimeNotStartable),
)
async def register_image(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[ImageRegister]
) -> Response[Image]:
    """Offer another image of a runtime; running services keep theirs."""

    async def create() -> Image:
        catalog = context_of(request).parts.catalog
        row = await images.register_image(work.session, work.clock, catalog, data)
        work.record("image.registered", "image", row.id, detail={"reference": row.reference})
        return images.show_image(row)

    return await once(request, work, create)


@delete("/images/{image:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound))
async def withdraw_image(work: NamedDependency[Work], image: FromPath[str]) -> None:
    """Offer a registered image no longer (by id); running services keep it."""
    row = await images.image_row(work.session, image)
    await work.session.delete(row)
    work.record("image.withdrawn", "image", row.id, detail={"reference": row.reference})


async def _shown(request: Request[Any, Any, Any], spec: RuntimeSpec) -> Runtime:
    """Whether a runtime is ready is read from files, off the event loop."""
    ready = await asyncio.to_thread(context_of(request).parts.publishing.is_ready, spec)
    return show_runtime(spec, ready=ready)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_runtimes, get_runtime, list_images]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [register_image, withdraw_image]
