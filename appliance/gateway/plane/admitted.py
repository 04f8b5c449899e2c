"""What a head alone has decided: whose request it is, where it leads and by which route."""

from __future__ import annotations

from appliance.gateway.plane.admit import check_key
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.route import Pending
from appliance.gateway.plane.routes import Matched
from appliance.gateway.plane.tables import ServiceTable


class Admitted:
    """Under one snapshot; of any number of requests whose heads are alike but for their Content-Length. `line` is
    method and target for the engine, `max_body_bytes` the lesser bound of listener and service.
    """

    __slots__ = ("head", "lead", "line", "matched", "max_body_bytes", "principal")

    def __init__(
        self,
        head: RequestHead,
        principal: Principal,
        lead: ServiceTable | Pending,
        matched: Matched,
        line: bytes,
        max_body_bytes: int,
    ) -> None:
        self.head = head
        self.principal = principal
        self.lead = lead
        self.matched = matched
        self.line = line
        self.max_body_bytes = max_body_bytes

    def check_again(self, peer: str, at: float) -> None:
        """`Refusal` if what holds for a time or a place alone does not hold for one more request."""
        principal = self.principal
        if principal.expires_at <= at or principal.networks is not None:
            check_key(principal, peer, at)
