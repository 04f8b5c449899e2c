"""A request that was admitted, as it is handed from step to step."""

from __future__ import annotations

import re

from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.body import SMALL, BodyMemory
from appliance.gateway.plane.defaults import Prepared
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.limits.grant import Grant
from appliance.gateway.plane.route import Pending
from appliance.gateway.plane.tables import ServiceTable

_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACE_STATE = re.compile(rb"[ -~]{1,512}")


class Request:
    """`at` is Unix seconds, `started` the same moment on the loop's clock: when the head was complete. `peer` is the
    client's IP address, `tenant` the key's tenant (whose limits, priority and salt count, whoever owns the service),
    `addressed` the deployment that the client asks for by name. `service` is not set before `prepare` where the
    body's model tells it.
    """

    __slots__ = (
        "_memory",
        "addressed",
        "answer_headers",
        "at",
        "bytes_in",
        "chunked_answer",
        "complete_at",
        "grant",
        "head",
        "keep_alive",
        "key",
        "line",
        "matched",
        "max_body_bytes",
        "peer",
        "pending",
        "prepared",
        "principal",
        "request_id",
        "route",
        "service",
        "started",
        "tenant",
        "unique",
    )

    def __init__(
        self,
        admitted: Admitted,
        head: RequestHead,
        unique: str,
        request_id: bytes | None,
        at: float,
        started: float,
        peer: str,
    ) -> None:
        """`request_id` None: the client gave none."""
        principal, lead, matched = admitted.principal, admitted.lead, admitted.matched
        self.head = head
        self.principal = principal
        self.key = principal.key
        self.tenant = principal.tenant
        self.pending: Pending | None = None
        """Where the body's model is looked up; None if the head has told the service."""
        if isinstance(lead, ServiceTable):
            self.service = lead
        else:
            self.pending = lead
        self.matched = matched
        self.route = matched.route.label
        self.line = admitted.line
        """Method and target for the engine."""
        self.max_body_bytes = admitted.max_body_bytes
        self.unique = unique
        """The gateway's own id of the request, and `request_id` where the client gave none."""
        self.request_id = request_id or unique.encode()
        self.at = at
        self.started = started
        self.peer = peer
        fields = head.fields
        self.addressed = fields.get(b"x-appliance-deployment") or fields.get(b"azureml-model-deployment")
        self.grant: Grant | None = None
        """What it holds of limits and budgets."""
        self.answer_headers = b""
        """Whole lines that go into the answer's head, whether it is the engine's or a refusal."""
        self.keep_alive = head.keep_alive
        self.complete_at = started
        """When the body was complete, on the loop's clock."""
        self.chunked_answer = False
        self.bytes_in = 0
        self._memory: BodyMemory | None = None
        self.prepared: Prepared | None = None

    def hold_body(self, size: int, memory: BodyMemory) -> None:
        """Its body is complete: `size` bytes, which were taken of `memory` and are given back by `release_body`."""
        self.bytes_in = size
        self._memory = memory

    def release_body(self) -> None:
        """An answer has begun, or none will: the body will not be sent again, and streams are long. Idempotent."""
        if self._memory is not None:
            self._memory.give(self.bytes_in)
            self._memory = None
        if self.prepared is not None:
            self.prepared.body = b""

    def for_engine(self) -> tuple[bytes, bytes]:
        """The request as the engine gets it, written anew: in one piece, and a large body in a second, uncopied."""
        body = self.prepared.body if self.prepared is not None else b""
        head = self.engine_head(self.unique, len(body))
        return (head + body, b"") if len(body) <= SMALL else (head, body)

    def engine_head(self, unique: str, length: int) -> bytes:
        """What precedes a body of `length` bytes. The request's id is the gateway's: an engine tells requests apart
        by it, and a client's may come twice.
        """
        trace = b""
        parent = self.head.fields.get(b"traceparent")
        if parent is not None and _TRACE_PARENT.fullmatch(parent):
            trace = b"traceparent: %b\r\n" % parent
            state = self.head.fields.get(b"tracestate")
            if state is not None and _TRACE_STATE.fullmatch(state):
                trace += b"tracestate: %b\r\n" % state
        prepared = self.prepared
        if prepared is None:
            return b"%b HTTP/1.1\r\nhost: engine\r\nx-request-id: %b\r\n%b\r\n" % (self.line, unique.encode(), trace)
        return b"%b HTTP/1.1\r\nhost: engine\r\n%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n" % (
            self.line,
            prepared.fields,
            length,
            unique.encode(),
            trace,
        )
