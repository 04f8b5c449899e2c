"""The two applications over HTTP, with this domain's provisions and no other domain's parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from appliance.api.context import Context, Port
from appliance.api.parts import Parts
from appliance.kernel.activation import Activations
from appliance.kernel.settings import load
from appliance.services.views import Origin
from tenants.activity import Sightings
from tenants.logins import LoginDesk
from tenants.provisions import Provisions
from tests.support.apps import application
from tests.tenants.conftest import DEFAULTS
from tests.tenants.support import no_services

ORIGIN = {Port.admin: "https://appliance.test:4430", Port.tenant: "https://appliance.test:8443"}


class _Elsewhere:
    """A part of another domain, which no route of this one may touch."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a part of another domain was used: {name}")


def context(port: Port, desk: LoginDesk) -> Context:
    elsewhere: Any = _Elsewhere()
    provisions = Provisions(desk, DEFAULTS, [], no_services, elsewhere, Sightings())
    parts = Parts(
        activations=Activations([], desk.clock),
        catalog=elsewhere,
        publishing=elsewhere,
        models=elsewhere,
        port_rules=elsewhere,
        flavor_blockers=elsewhere,
        pool_blockers=elsewhere,
        origin=Origin("http", "appliance.test"),
        read_log=elsewhere,
        host_paths=elsewhere,
        telemetry=elsewhere,
        tenancy=provisions,
    )
    return Context(port, load({}), desk.database, desk.clock, desk.passwords, parts)


@asynccontextmanager
async def client(port: Port, desk: LoginDesk, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the port, which keeps its cookies like a browser."""
    transport = httpx.ASGITransport(application(context(port, desk)))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN[port], headers=headers) as client:
        yield client
