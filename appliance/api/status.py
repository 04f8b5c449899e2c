"""How the control plane is, for the platform's administrators."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.types import ControllerRouterHandler

from appliance import __version__
from appliance.api.context import context_of
from appliance.api.problems import problems
from appliance.kernel.activation import ActivationStatus
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Status"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`database` is the kind, never the address. `reconcilers` as they are in this process."""

    version: str
    launcher: str
    database: str
    reconcilers: list[ActivationStatus]


@get("/status", permission=Permission.platform_read, tags=TAGS, responses=problems())
async def get_status(request: Request[Any, Any, Any], work: NamedDependency[Work]) -> Status:
    """What runs, and what each reconciler did last. An answer means that the database answers too."""
    work.actor.require(Permission.platform_read)
    context = context_of(request)
    return Status(
        version=__version__,
        launcher=context.settings.launcher,
        database="postgresql" if context.settings.database_url.startswith("postgresql") else "sqlite",
        reconcilers=context.parts.activations.statuses(),
    )


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [get_status]
