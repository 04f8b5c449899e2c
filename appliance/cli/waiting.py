"""Following a service until it is what was asked for, telling its events on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed
from appliance.cli.output import tell

_PAUSE_S: Final = 0.2
_GOALS: Final = {"running": "ready", "stopped": "stopped"}
"""What a service becomes that is desired to be so."""


def until_settled(connection: Connection, service: Mapping[str, Any], *, timeout_s: float) -> Mapping[str, Any]:
    """Wait until the service is ready, or stopped where that is desired; raise `CommandFailed` when it failed."""
    if (goal := _GOALS.get(service["desired"])) is None:
        raise CommandFailed(f"service {service['name']} is being deleted")
    return until_state(connection, service, goal, timeout_s=timeout_s)


def until_state(
    connection: Connection, service: Mapping[str, Any], goal: str, *, timeout_s: float
) -> Mapping[str, Any]:
    """Wait until the service is in the state `goal`; raise `CommandFailed` when it failed or time is up."""
    seen: set[str] = set()
    deadline = time.monotonic() + timeout_s
    while True:
        _tell_events(connection, service["id"], seen)
        service = connection.get(f"services/{service['id']}")
        if _is(service, goal):
            return service
        if service["state"] == "failed":
            raise CommandFailed(f"service {service['name']} failed: {service['reason']}")
        if time.monotonic() > deadline:
            reason = f": {service['reason']}" if service["reason"] else ""
            raise CommandFailed(f"service {service['name']} is {service['state']} after {timeout_s:.0f} s{reason}")
        time.sleep(_PAUSE_S)


def _is(service: Mapping[str, Any], goal: str) -> bool:
    """Ready means as many replicas as are wanted: the state alone follows a change only a moment later."""
    if service["state"] != goal:
        return False
    return goal != "ready" or bool(service["ready_replicas"] == service["replicas"])


def until_gone(connection: Connection, name: str, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while connection.exists(f"services/{segment(name)}"):
        if time.monotonic() > deadline:
            raise CommandFailed(f"service {name} is still being deleted after {timeout_s:.0f} s")
        time.sleep(_PAUSE_S)


def _tell_events(connection: Connection, service_id: str, seen: set[str]) -> None:
    for event in reversed(connection.get(f"services/{service_id}/events", limit=50)["items"]):
        if event["id"] not in seen:
            seen.add(event["id"])
            tell(f"{event['at'][11:19]} {event['phase']}: {event['message']}")
