"""What becomes of a request by its head alone: an answer of the gateway's own, or a request that may be made.

Everything but the public paths needs a key, so that what is not for everybody is denied by default.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from appliance.gateway.plane import answers
from appliance.gateway.plane.admit import authenticate
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.identifiers import well_formed
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.route import PUBLIC, engine_route, own_answer
from appliance.gateway.plane.schemas import TenantEntry

UNKNOWN_TENANT: Final = TenantEntry("")
"""Of a snapshot that was written before it told of tenants."""


class OwnAnswer(NamedTuple):
    content_type: bytes
    body: bytes


_ALIVE = OwnAnswer(b"text/plain", b"ok\n")


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
    service = tables.service_of(listener_id)
    if service is None:
        raise Refusal(404, "no_service", "No service is published here.")
    key = authenticate(head.fields.get(b"authorization"), service, tables)
    own = own_answer(head, service)
    if own is not None:
        return OwnAnswer(answers.JSON, own)
    if b"content-encoding" in head.fields:
        raise Refusal(415, "unsupported_encoding", "Send the request body without Content-Encoding.")
    return Request(
        head=head,
        service=service,
        principal=Principal(key, tables.tenants.get(key.tenant_id, UNKNOWN_TENANT)),
        route=engine_route(head, service),
        request_id=request_id,
        at=time.time(),
        started=context.now(),
        peer=peer,
    )
