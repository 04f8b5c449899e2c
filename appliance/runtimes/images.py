"""Images: each runtime's own default reference, and the ones that administrators registered."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.errors import BadInput, NameTaken, NotFound
from appliance.kernel.ids import new_id
from appliance.kernel.pagination import Page, PageRequest
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.errors import RuntimeNotStartable
from appliance.runtimes.schemas import Image, ImageRegister
from appliance.runtimes.spec import RuntimeSpec
from appliance.runtimes.tables import ImageRow

DOCKER = "docker"


def default_images(catalog: Catalog) -> list[Image]:
    """One for each runtime that has a container form."""
    return [_default(runtime) for runtime in catalog.all() if runtime.default_image is not None]


async def list_images(session: AsyncSession, page: PageRequest, *, runtime: str | None = None) -> Page[Image]:
    """The registered ones, the newest first."""
    query = select(ImageRow)
    if runtime is not None:
        query = query.where(ImageRow.runtime == runtime)
    rows = (await session.scalars(page.apply(query, ImageRow.id))).all()
    return page.page([show_image(row) for row in rows], [row.id for row in rows])


async def image_row(session: AsyncSession, reference: str) -> ImageRow:
    """By id or reference; raises `NotFound`."""
    query = select(ImageRow).where((ImageRow.id == reference) | (ImageRow.reference == reference))
    row = await session.scalar(query.order_by(ImageRow.id).limit(1))
    if row is None:
        raise NotFound(f"there is no registered image {reference!r}")
    return row


async def choose_image(session: AsyncSession, runtime: RuntimeSpec, launcher: str, wanted: str | None) -> str | None:
    """The reference that a new deployment runs: its runtime's own image, or a registered one by id or reference.

    None with a launcher that runs no images. Raises `NotFound`, `BadInput` for an image that cannot be had so.
    """
    if launcher != DOCKER:
        if wanted is not None:
            raise BadInput(f"this appliance starts engines by {launcher!r}, which runs no images; leave `image` out")
        return None
    if wanted is None or wanted == runtime.default_image:
        return runtime.default_image
    query = select(ImageRow.reference).where(ImageRow.runtime == runtime.name)
    reference = await session.scalar(query.where((ImageRow.id == wanted) | (ImageRow.reference == wanted)))
    if reference is None:
        raise NotFound(f"no image {wanted!r} is registered for the {runtime.name} runtime; list the images")
    return reference


async def register_image(session: AsyncSession, clock: Clock, catalog: Catalog, new: ImageRegister) -> ImageRow:
    """Offer another image of a runtime. Running services keep theirs.

    Raises `NotFound`, `RuntimeNotStartable` for a runtime without a container form, `NameTaken`.
    """
    runtime = catalog.get(new.runtime)
    if runtime.default_image is None:
        raise RuntimeNotStartable(f"the {runtime.name} runtime does not run in containers")
    _, _, digest = new.reference.partition("@")
    row = ImageRow(
        id=new_id("img"),
        runtime=runtime.name,
        launcher=DOCKER,
        reference=new.reference,
        digest=digest or None,
        engine_version=new.engine_version,
        created_at=clock.now(),
    )
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        raise NameTaken(f"image {new.reference} is registered for runtime {new.runtime} already") from error
    return row


def show_image(row: ImageRow) -> Image:
    return Image(
        id=row.id,
        runtime=row.runtime,
        launcher=row.launcher,
        reference=row.reference,
        digest=row.digest,
        engine_version=row.engine_version,
        is_default=False,
        created_at=row.created_at,
    )


def _default(runtime: RuntimeSpec) -> Image:
    return Image(
        id=None,
        runtime=runtime.name,
        launcher=DOCKER,
        reference=runtime.default_image or "",
        digest=None,
        engine_version=runtime.engine_version,
        is_default=True,
        created_at=None,
    )
