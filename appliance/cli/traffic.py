"""Options of a service that say how the gateway treats its requests: limits, queue, timeouts, affinity, capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from appliance.cli.limits import limit_options, merged, take, take_limits

_TIMEOUTS: Final = {
    "connect_s": "seconds until a replica accepts a connection",
    "first_byte_s": "seconds until an answer begins",
    "idle_s": "seconds of silence within an answer",
    "total_s": "seconds that a whole exchange may take",
    "wake_s": "seconds to wait for a service that sleeps",
}
_QUEUE: Final = {
    "max_queued": (click.IntRange(min=0), "requests that may wait for room, on each worker of the gateway"),
    "queue_s": (click.FloatRange(min=0), "seconds that each of them may wait"),
}
_CAPTURE: Final = {
    "capture_share": (click.FloatRange(0, 1), "share of requests that are kept with their answers; 0: none"),
    "capture_bytes": (click.IntRange(min=1024), "how much of each is kept"),
}


def traffic_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for member, (kind, help_) in reversed((_QUEUE | _CAPTURE).items()):
        command = click.option(f"--{member.replace('_', '-')}", member, type=kind, help=help_)(command)
    for member, help_ in reversed(_TIMEOUTS.items()):
        command = click.option(f"--{member.replace('_', '-')}", member, type=float, help=help_)(command)
    affinity = click.Choice(["none", "prefix", "key"])
    help_ = "what requests have in common that go to the same replica: the prompt's beginning, or the key"
    return limit_options(click.option("--affinity", type=affinity, help=help_)(command))


def take_traffic(options: dict[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Take these options out of a command's. What comes back makes of an object as it is now the members of a
    request that change it: of each nested object only what was given.
    """
    limits, timeouts = take_limits(options), take(options, _TIMEOUTS)
    queue, capture = take(options, _QUEUE), take(options, _CAPTURE)
    plain = take(options, {"affinity": None})

    def changes(now: Mapping[str, Any]) -> dict[str, Any]:
        nested = {"limits": limits, "timeouts": timeouts, "queue": queue}
        body = {name: merged(now.get(name), given) for name, given in nested.items() if given}
        return plain | body | ({"capture": _capture(now.get("capture"), capture)} if capture else {})

    return changes


def _capture(now: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any] | None:
    share = given.get("capture_share", (now or {}).get("share"))
    if share is None:
        raise click.UsageError("--capture-bytes needs --capture-share: nothing is captured yet")
    if share == 0:
        return None
    return {**(now or {}), "share": share} | ({"max_bytes": given["capture_bytes"]} if "capture_bytes" in given else {})
