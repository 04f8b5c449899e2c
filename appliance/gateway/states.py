"""States of a gateway and of a listener."""

from __future__ import annotations

from enum import StrEnum


class GatewayState(StrEnum):
    """Set by an administrator. What listens on a closed gateway goes on; it only takes no new listeners."""

    open = "open"
    closed = "closed"


class ListenerState(StrEnum):
    """Observed: what the gateway's supervisor last said of the port."""

    pending = "pending"
    listening = "listening"
    failed = "failed"
    unknown = "unknown"
