"""What becomes of a request by its head alone: an answer of the gateway's own, or a request that may be made.

Everything but the public paths needs a key, so that what is not for everybody is denied by default.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.gateway.plane import answers
from appliance.gateway.plane.admit import authenticate, check_key, check_service, check_tenant
from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.errors import Refusal, nothing_here
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.identifiers import well_formed
from appliance.gateway.plane.route import (
    MODELS_ROUTE,
    PUBLIC,
    Pending,
    engine_route,
    locate,
    own_answer,
    pending_route,
    with_query,
)
from appliance.gateway.plane.tables import ServiceTable, Tables


class OwnAnswer(NamedTuple):
    content_type: bytes
    body: bytes


_ALIVE: Final = OwnAnswer(b"text/plain", b"ok\n")


def request_id_of(head: RequestHead) -> bytes | None:
    """The client's own id if it is well-formed."""
    given = head.fields.get(b"x-request-id")
    return given if given is not None and well_formed(given) else None


def admit(head: RequestHead, listener_id: str, tables: Tables, peer: str, at: float) -> Admitted | OwnAnswer:
    """`Refusal` when neither is due. `peer`: the client's IP address; `at`: Unix seconds."""
    if (head.method, head.path) in PUBLIC:
        return _ALIVE
    listener = tables.listeners.get(listener_id)
    if listener is None:
        raise nothing_here()
    principal = authenticate(head.fields.get(b"authorization"), tables)
    lead: ServiceTable | Pending
    if listener.service_id is not None:
        lead, path = _published(tables, listener.service_id), head.path
        check_tenant(principal, lead.shard)
        check_key(principal, peer, at)
        check_service(principal, lead.shard)
    else:
        check_key(principal, peer, at)
        directory = tables.directory(listener.gateway_id, principal.key.tenant_id)
        lead, path = locate(head.path, Pending(tables, directory, principal))
    own = own_answer(head.method, path, lead)
    if own is not None:
        principal.check_route(MODELS_ROUTE)
        return OwnAnswer(answers.JSON, own)
    if b"content-encoding" in head.fields:
        raise Refusal(415, "unsupported_encoding", "Send the request body without Content-Encoding.")
    limit = listener.max_body_bytes
    if isinstance(lead, ServiceTable):
        matched = engine_route(head.method, path, lead)
        limit = min(limit, lead.shard.max_body_bytes)
    else:
        matched = pending_route(head.method, path, lead.directory)
    principal.check_route(matched.route.label)
    line = with_query(matched.line, matched.route, head.query) if head.query else matched.line
    return Admitted(head, principal, lead, matched, line, limit)


def _published(tables: Tables, service_id: str) -> ServiceTable:
    service = tables.services.get(service_id)
    if service is None:
        raise nothing_here()
    return service
