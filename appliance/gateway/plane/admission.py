"""What becomes of a request by its head alone: an answer of the gateway's own, or a request that may be made.

Everything but the public paths needs a key, so that what is not for everybody is denied by default.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from appliance.gateway.plane import answers
from appliance.gateway.plane.admit import authenticate, check_key, check_service, check_tenant
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.identifiers import well_formed
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.route import (
    MODELS_ROUTE,
    PUBLIC,
    Matched,
    Pending,
    engine_route,
    locate,
    own_answer,
    pending_route,
    shared_answer,
    with_query,
)
from appliance.gateway.plane.schemas import Listener
from appliance.gateway.plane.tables import ServiceTable, Tables


class OwnAnswer(NamedTuple):
    content_type: bytes
    body: bytes


_ALIVE: Final = OwnAnswer(b"text/plain", b"ok\n")


class _Target(NamedTuple):
    """`service` None: the body's model tells, with `pending`."""

    matched: Matched
    service: ServiceTable | None
    pending: Pending | None
    max_body_bytes: int


def request_id_of(head: RequestHead, context: Context) -> bytes:
    """The client's own id if it is well-formed, else a new one."""
    given = head.fields.get(b"x-request-id")
    if given is not None and well_formed(given):
        return given
    return context.ids.next().encode()


def admit(
    head: RequestHead, listener_id: str, request_id: bytes, context: Context, peer: str = ""
) -> Request | OwnAnswer:
    """`Refusal` when neither is due. `peer`: the client's IP address."""
    if (head.method, head.path) in PUBLIC:
        return _ALIVE
    tables = context.tables
    listener = tables.listeners.get(listener_id)
    if listener is None:
        raise _nothing_here()
    at = time.time()
    if listener.service_id is not None:
        service = tables.services.get(listener.service_id)
        if service is None:
            raise _nothing_here()
        principal = authenticate(head.fields.get(b"authorization"), tables)
        check_tenant(principal, service.shard)
        check_key(principal, peer, at)
        check_service(principal, service.shard)
        target = _of_service(head, head.path, service, principal, listener)
    else:
        principal = authenticate(head.fields.get(b"authorization"), tables)
        check_key(principal, peer, at)
        target = _of_shared(head, tables, principal, listener)
    if isinstance(target, OwnAnswer):
        return target
    if b"content-encoding" in head.fields:
        raise Refusal(415, "unsupported_encoding", "Send the request body without Content-Encoding.")
    route = target.matched.route
    principal.check_route(route.label)
    return Request(
        head=head,
        principal=principal,
        service=target.service,
        pending=target.pending,
        matched=target.matched,
        line=with_query(target.matched.line, route, head.query) if head.query else target.matched.line,
        max_body_bytes=target.max_body_bytes,
        request_id=request_id,
        at=at,
        started=context.now(),
        peer=peer,
    )


def _of_service(
    head: RequestHead, path: bytes, service: ServiceTable, principal: Principal, listener: Listener
) -> _Target | OwnAnswer:
    own = own_answer(head.method, path, service.listing)
    if own is not None:
        principal.check_route(MODELS_ROUTE)
        return OwnAnswer(answers.JSON, own)
    limit = min(listener.max_body_bytes, service.shard.max_body_bytes)
    return _Target(engine_route(head.method, path, service), service, None, limit)


def _of_shared(head: RequestHead, tables: Tables, principal: Principal, listener: Listener) -> _Target | OwnAnswer:
    directory = tables.directory(listener.gateway_id, principal.key.tenant_id)
    own = shared_answer(head, directory, principal, listener.gateway_id)
    if own is not None:
        principal.check_route(MODELS_ROUTE)
        return OwnAnswer(answers.JSON, own)
    place = locate(head.path, tables, directory, principal)
    if place.service is not None:
        return _of_service(head, place.path, place.service, principal, listener)
    return _Target(
        pending_route(head.method, place.path, directory),
        None,
        Pending(tables, directory, principal),
        listener.max_body_bytes,
    )


def _nothing_here() -> Refusal:
    return Refusal(404, "no_service", "No service is published here.")
