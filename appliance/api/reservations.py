"""Routes of reservations: a tenant sees its own, the platform's administrators make and end them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.idempotency import once
from appliance.api.parameters import Force
from appliance.api.problems import problems
from appliance.kernel.errors import BadInput, Conflict, InUse, NotFound
from appliance.kernel.pagination import Page, PageRequest
from appliance.services import reserving
from appliance.services.reservation_schemas import NewReservation, Reservation
from appliance.services.reserving import ReservationOverlaps
from tenants.permissions import Permission
from tenants.queries.tenancy import find_tenant
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Reservations"]
OfTenant = Annotated[str | None, QueryParameter(description="only those for this tenant (name or id)")]
OfDevice = Annotated[str | None, QueryParameter(description="only those of this device (id)")]


@get("/reservations", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def list_reservations(
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    tenant: OfTenant = None,
    device: OfDevice = None,
) -> Page[Reservation]:
    """What devices are kept for the caller's tenant, and when; for an administrator, all. Those that are over stay."""
    tenant_id = (await find_tenant(work.session, work.scope, tenant)).id if tenant is not None else None
    return await reserving.list_reservations(work, page, tenant_id=tenant_id, device_id=device)


@get("/reservations/{reservation:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_reservation(work: NamedDependency[Work], reservation: FromPath[str]) -> Reservation:
    """One reservation, by its id."""
    return await reserving.get_reservation(work, reservation)


@post(
    "/reservations",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, BadInput, Conflict, ReservationOverlaps, InUse),
)
async def create_reservation(
    request: AnyRequest, work: NamedDependency[Work], data: JSONBody[NewReservation], *, force: Force = False
) -> Response[Reservation]:
    """Keep devices for a tenant in a window of time.

    Nothing of other tenants is placed on them within it. Where services of others run on them, they are named; with
    `force` they are drained when it begins.
    """
    return await once(request, work, lambda: reserving.create_reservation(work, data, force=force))


@delete(
    "/reservations/{reservation:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound)
)
async def delete_reservation(work: NamedDependency[Work], reservation: FromPath[str]) -> None:
    """End a reservation, or forget one that is over. What runs by it runs on; its devices are everyone's again."""
    await reserving.delete_reservation(work, reservation)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_reservations, get_reservation]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [create_reservation, delete_reservation]
