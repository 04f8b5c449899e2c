"""What gateways refuse."""

from __future__ import annotations

from appliance.kernel.errors import BadInput, Conflict, LimitReached


class GatewayFull(LimitReached):
    """Each port of the gateway, or of all open ones, has a listener or is held by a process of others."""

    code = "gateway-full"
    title = "The gateway has no free port"


class GatewayClosed(Conflict):
    code = "gateway-closed"
    title = "The gateway takes no new listeners"


class PortRangeRefused(BadInput):
    """A range that no gateway may have, whatever else there is."""

    code = "port-range-refused"
    title = "A gateway cannot have these ports"


class PortsTaken(Conflict):
    """Some of the range's ports belong to another gateway."""

    code = "ports-taken"
    title = "Another gateway has these ports"


class PortOutsideGateway(BadInput):
    code = "port-outside-gateway"
    title = "The port is not one of the gateway's"


class PortTaken(Conflict):
    """The chosen port has a listener, or a process that is not ours holds it on the machine."""

    code = "port-taken"
    title = "The port is in use"


class NoSharedListener(Conflict):
    code = "no-shared-listener"
    title = "The gateway has no shared listener"
