"""From a listener and a request line to a service and one of its allowed routes.

A listener is one service's, or it is shared: then the path's first segment names the service (`/{service}/v1/...`),
or for paths without one the body's `model` does, and until the body is there the request has no service.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from appliance.gateway.plane.directory import Directory
from appliance.gateway.plane.errors import Refusal, body_too_large, model_not_found
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.routes import Matched, Route
from appliance.gateway.plane.tables import ServiceTable, Tables

PUBLIC: Final = frozenset({(b"HEAD", b"/"), (b"GET", b"/healthz"), (b"HEAD", b"/healthz")})
"""Answered by the gateway without a key; they tell nothing but that a gateway is there."""

MODELS_ROUTE: Final = "GET /v1/models"
"""What a key's routes must hold for the list of models and each of its entries."""

_MODELS: Final = b"/v1/models"
_MODEL: Final = b"/v1/models/"
_V2_MODEL: Final = b"/v2/models/"
_V2_ANSWERS: Final = {
    b"/v2": b'{"name":"appliance","version":"2","extensions":["binary_tensor_data"]}',
    b"/v2/health/live": b'{"live":true}',
    b"/v2/health/ready": b'{"ready":true}',
}
"""What a shared listener says of itself in the Open Inference Protocol."""
_IGNORED_QUERY = re.compile(rb"api-version=[0-9A-Za-z.-]{0,40}")
"""Clients of Azure's API put it on every request; it changes nothing here."""


class Pending(NamedTuple):
    """What the service of a request is looked up in when its body is there."""

    tables: Tables
    directory: Directory
    principal: Principal

    def service(self, service_id: str) -> ServiceTable:
        """Directories name the tables' own services."""
        return self.tables.services[service_id]


def own_answer(method: bytes, path: bytes, lead: ServiceTable | Pending) -> bytes | None:
    """The body of an answer that the gateway gives itself to an authenticated client, None if it is not one."""
    if method != b"GET":
        return None
    if not path.startswith(_MODELS):
        return _V2_ANSWERS.get(path) if isinstance(lead, Pending) else None
    listing = lead.listing if isinstance(lead, ServiceTable) else lead.directory.listing(lead.principal)
    if path == _MODELS:
        return listing.whole
    if not path.startswith(_MODEL):
        return None
    # Clients encode some of a name's characters or none. It is looked up here only, and leads to no engine.
    name = unquote_to_bytes(path.removeprefix(_MODEL))
    answer = listing.each.get(name)
    if answer is None:
        raise model_not_found(name.decode(errors="replace"))
    return answer


def locate(path: bytes, pending: Pending) -> tuple[ServiceTable | Pending, bytes]:
    """Where a request on a shared listener leads, and the path without the service's name. `Refusal` 404 if the path
    names a service that the key may not use, or none.
    """
    directory, principal = pending.directory, pending.principal
    if path.startswith(_V2_MODEL):
        model = path.split(b"/", 4)[3].decode("ascii")
        return pending.service(directory.by_model(model, principal)), path
    first, slash, rest = path[1:].partition(b"/")
    if not slash or first in (b"v1", b"v2"):
        return pending, path
    return pending.service(directory.by_path(first, principal)), b"/" + rest


def engine_route(method: bytes, path: bytes, service: ServiceTable) -> Matched:
    """`Refusal` 404 or 405 for what is not in the service's allow-list."""
    matched = service.routes.fixed(method, path)
    if matched is not None:
        return matched
    found = service.routes.find(method, path)
    if found is None:
        raise not_listed(method, path, service.routes.methods(path))
    model = found.model()
    if model is not None and model not in service.models:
        raise model_not_found(model)
    return Matched(found.route, found.line(service.shard.served_model.encode()), model)


def pending_route(method: bytes, path: bytes, directory: Directory) -> Matched:
    """The route of a request whose body's model will tell its service."""
    matched = directory.route(method, path)
    if matched is None:
        raise not_listed(method, path, directory.methods(path))
    return matched


def with_query(line: bytes, route: Route, query: bytes) -> bytes:
    """`line` with the query string, if the route declares one. `Refusal` 400 if it does not."""
    if not query:
        return line
    if route.query:
        return line + b"?" + query
    if _IGNORED_QUERY.fullmatch(query):
        return line
    raise Refusal(400, "unexpected_query", f"{route.label} takes no query string; send its parameters in the body.")


def resolve(pending: Pending, route: Route, model: str | None, body_bytes: int) -> ServiceTable:
    """The service of a request by its body's `model`. `Refusal` 400, 404 or 413."""
    if model is None:
        raise Refusal(
            400,
            "model_required",
            "Name the model in the body's 'model'; GET /v1/models lists yours.",
            param="model",
        )
    service = pending.service(pending.directory.by_model(model, pending.principal))
    method, _, path = route.line.partition(b" ")
    if service.routes.fixed(method, path) is None:
        raise not_listed(method, path, [])
    if body_bytes > service.shard.max_body_bytes:
        raise body_too_large(service.shard.max_body_bytes)
    return service


def not_listed(method: bytes, path: bytes, methods: list[str]) -> Refusal:
    if methods:
        return Refusal(
            405,
            "method_not_allowed",
            f"{method.decode()} is not allowed here; allowed: {', '.join(methods)}.",
            headers=f"allow: {', '.join(methods)}\r\n".encode(),
        )
    return Refusal(404, "unknown_url", f"Unknown request URL: {method.decode()} {path.decode('ascii')[:200]}.")
