"""The OpenAPI 3.1 documents, one for each port, made from the routes alone: no resource is started."""

from __future__ import annotations

import functools
from typing import Any, Final, cast

from litestar.handlers import HTTPRouteHandler

from appliance import __version__
from appliance.api.authentication import COOKIE, CSRF_HEADER, TENANT_HEADER
from appliance.api.components import Json, Shared
from appliance.api.context import Port
from appliance.api.idempotency import LONGEST_KEY
from appliance.api.operations import describe, path_of
from appliance.api.routes import admin_routes, tenant_routes

BASE: Final = "/api/v1"
TITLES: Final = {Port.admin: "AI compute appliance: administration", Port.tenant: "AI compute appliance: tenants"}
_DESCRIPTION: Final = """\
Requests carry an API key (`Authorization: Bearer ...`) or the cookie of a login; a write by cookie carries the CSRF \
token too. Errors are problem details (RFC 9457); `type` leads to a page about the error. Lists come in pages: pass \
`next_cursor` as `cursor` until it is null. Updates take `If-Match` with the object's `ETag`. Objects are named by \
their name or id."""
_PORTS: Final = {
    Port.admin: "This port serves the whole platform; with the header Appliance-Tenant it acts for one tenant.",
    Port.tenant: "This port serves what belongs to one tenant; what is for administrators does not exist here.",
}
_SECURITY_SCHEMES: Final[Json] = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "login": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The cookie that a login sets."},
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "The `csrf_token` of the login, from `POST /api/v1/logins` or `GET /api/v1/me`.",
    },
}
_PARAMETERS: Final[Json] = {
    "ApplianceTenant": {
        "name": TENANT_HEADER,
        "in": "header",
        "description": "Name or id of the tenant acted for: on the admin port, and for a member of several tenants. "
        "On the admin port lists span all tenants without it, and what belongs to a tenant cannot be created.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes a repetition safe: the same key and body within 24 hours have one effect and get the "
        "first answer again, with `Idempotency-Replayed: true`, less secrets that are shown once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    },
}
_ETAG: Final[Json] = {"description": "the object's version, for If-Match", "schema": {"type": "string"}}


def handlers(port: Port) -> list[HTTPRouteHandler]:
    """The handlers of the port's routes below `BASE`."""
    routes = [*tenant_routes(), *(admin_routes() if port is Port.admin else ())]
    return cast("list[HTTPRouteHandler]", routes)


@functools.cache
def document(port: Port) -> Json:
    """The document of the port; the same object each time, which nobody may change."""
    shared = Shared()
    paths: dict[str, Json] = {}
    tags: dict[str, None] = {}
    for handler in handlers(port):
        (method,) = handler.http_methods
        operation = describe(handler, shared)
        paths.setdefault(BASE + path_of(handler), {})[str(method).lower()] = operation
        tags.update(dict.fromkeys(operation["tags"]))
    for operations in paths.values():
        _announce_etag(operations)
    components = {"securitySchemes": _SECURITY_SCHEMES, "parameters": _PARAMETERS, **shared.components()}
    return {
        "openapi": "3.1.0",
        "info": _info(port),
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": components,
    }


def _announce_etag(operations: Json) -> None:
    """Where a path takes If-Match, what reads or changes it shows the ETag."""
    parameters = [parameter for found in operations.values() for parameter in found.get("parameters", ())]
    if any(parameter.get("name") == "If-Match" for parameter in parameters):
        for method in operations.keys() & {"get", "put", "patch"}:
            success = next(iter(operations[method]["responses"].values()))
            success["headers"] = {"ETag": _ETAG}


def _info(port: Port) -> dict[str, Any]:
    return {
        "title": TITLES[port],
        "version": __version__,
        "description": f"{_PORTS[port]}\n\n{_DESCRIPTION}",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }
