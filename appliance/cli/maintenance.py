"""`cordon`, `drain` and `uncordon`, which nodes and devices have alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from appliance.cli.connection import Connection
from appliance.cli.effects import show_effects
from appliance.cli.errors import CommandFailed
from appliance.cli.options import client_command, timeout_option
from appliance.cli.output import show_object, tell
from appliance.cli.resources import Kind

_PAUSE_S: Final = 0.5
label_option = click.option(
    "--label", "labels", metavar="KEY=VALUE", multiple=True, help="repeat it for each; all together replace what was"
)
with_label_option = click.option("--label", metavar="KEY=VALUE", multiple=True, help="only those with this label")
_reason = click.option("--reason", required=True, help="why; shown to everyone who asks why nothing is placed there")


def add_maintenance(group: click.Group, kind: Kind, metavar: str, holders: Callable[[Mapping[str, Any]], int]) -> None:
    """`metavar`: what an object is called by, `NAME` or `ID`; `holders` counts the replicas on one."""

    @group.command("cordon", help=f"Place nothing new on a {kind.noun}; what runs there stays. Ends a drain.")
    @click.argument("name", metavar=metavar)
    @_reason
    @client_command
    def cordon(name: str, connection: Connection, *, as_json: bool, reason: str) -> None:
        show_object(connection.post(f"{kind.one(name)}/cordon", {"reason": reason}), as_json=as_json)

    @group.command("drain", help=f"Place nothing new on a {kind.noun}, and move what runs there elsewhere.")
    @click.argument("name", metavar=metavar)
    @_reason
    @click.option("--wait", is_flag=True, help="until nothing runs there")
    @timeout_option
    @client_command
    def drain(name: str, connection: Connection, *, as_json: bool, reason: str, wait: bool, timeout: float) -> None:
        drained = connection.post(f"{kind.one(name)}/drain", {"reason": reason})
        if wait:
            drained = until_empty(connection, kind.one(name), holders, timeout_s=timeout)
        show_object(drained, as_json=as_json)

    @group.command("uncordon", help=f"Open a {kind.noun} that was cordoned or drained.")
    @click.argument("name", metavar=metavar)
    @client_command
    def uncordon(name: str, connection: Connection, *, as_json: bool) -> None:
        show_object(connection.post(f"{kind.one(name)}/uncordon"), as_json=as_json)

    @group.command("preview", help=f"Show what draining a {kind.noun} would do, without doing it.")
    @click.argument("name", metavar=metavar)
    @client_command
    def preview(name: str, connection: Connection, *, as_json: bool) -> None:
        show_effects(connection.get(f"{kind.one(name)}/maintenance-preview"), as_json=as_json)


def until_empty(
    connection: Connection, path: str, holders: Callable[[Mapping[str, Any]], int], *, timeout_s: float
) -> dict[str, Any]:
    """Wait until no replica is on the node or device; `CommandFailed` when time is up, or someone ended the drain."""
    deadline = time.monotonic() + timeout_s
    told = -1
    while True:
        item: dict[str, Any] = connection.get(path)
        left = holders(item)
        if left == 0:
            return item
        if not (item["cordon"] or {}).get("draining"):
            raise CommandFailed(f"somebody ended the drain with {left} replicas left")
        if time.monotonic() > deadline:
            raise CommandFailed(f"{left} replicas are left after {timeout_s:.0f} s; the drain goes on")
        if left != told:
            tell(f"{left} replicas are left")
            told = left
        time.sleep(_PAUSE_S)


def disposition(item: dict[str, object]) -> str:
    """In one word what a person said of a node or device, for tables."""
    cordon = item["cordon"]
    if not isinstance(cordon, dict):
        return "open"
    return "draining" if cordon["draining"] else "cordoned"


def labels_of(pairs: tuple[str, ...], option: str = "--label") -> dict[str, str] | None:
    """What `--label KEY=VALUE ...` says, None where it was not given; `--label ''` stands for none at all."""
    if not pairs:
        return None
    found = {}
    for pair in filter(None, pairs):
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{option} {pair!r} is not of the form KEY=VALUE")
        found[key] = value
    return found
