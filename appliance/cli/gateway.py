"""`appliance gateway ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.gateway_host import roll, top
from appliance.cli.options import (
    access_option,
    client_command,
    confirm,
    force_option,
    forced,
    given,
    require_change,
    yes_option,
)
from appliance.cli.output import show_done, show_list, show_object
from appliance.cli.resources import Kind, add_delete, add_list

KIND = Kind(
    "gateway",
    "gateways",
    (
        ("NAME", "name"),
        ("NODE", "node"),
        ("HOST", "host"),
        ("PORTS", "ports"),
        ("FREE", "free"),
        ("SHARED", "shared_port"),
        ("STATE", "state"),
        ("ACCESS", "access"),
        ("ID", "id"),
    ),
)
LISTENER_COLUMNS = (
    ("PORT", "port"),
    ("STATE", "state"),
    ("SERVICE", "service_id"),
    ("TENANT", "tenant_id"),
    ("REASON", "reason"),
)


@click.group(help="Gateways and their ports.")
def gateway() -> None: ...


@gateway.command("create")
@click.argument("name")
@click.option("--first-port", type=int, required=True, help="the lowest port; outside 32768 to 60999")
@click.option("--ports", "port_count", type=int, help="how many, at most 16 [default: 16]")
@click.option("--host", help="the address to listen on [default: 0.0.0.0]")
@access_option
@client_command
def create(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Open the gateway NAME."""
    show_object(connection.create(KIND.path, given(name=name, **members)), as_json=as_json)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    first, last = item["first_port"], item["first_port"] + item["port_count"] - 1
    return item | {"ports": f"{first}-{last}", "free": f"{len(item['free_ports'])} of {item['port_count']}"}


add_list(gateway, KIND, "List gateways with their free ports, newest first.", _row)


@gateway.command("show")
@click.argument("name")
@client_command
def show(name: str, connection: Connection, *, as_json: bool) -> None:
    """Show one gateway, and what is on each of its ports."""
    found = connection.get(KIND.one(name))
    if as_json:
        show_object(found, as_json=True)
        return
    show_object({name: value for name, value in found.items() if name != "listeners"}, as_json=False)
    click.echo()
    free = [{"port": port, "state": "free"} for port in found["free_ports"]]
    ports = sorted([*found["listeners"], *free], key=lambda port: int(port["port"]))
    show_list(ports, LISTENER_COLUMNS, as_json=False)


@gateway.command("update")
@click.argument("name")
@click.option("--rename", "name_", metavar="NAME", help="its new name")
@click.option("--first-port", type=int, help="the lowest port; every port with a listener must stay in the range")
@click.option("--ports", "port_count", type=int, help="how many, at most 16")
@click.option("--host", help="the address to listen on")
@click.option("--close", "state", flag_value="closed", help="give it no further listeners")
@click.option("--open", "state", flag_value="open", help="undo --close")
@access_option
@force_option
@client_command
def update(name: str, connection: Connection, *, as_json: bool, name_: str | None, force: bool, **members: Any) -> None:
    """Rename, move, widen, close or reopen a gateway, or change who may use it."""
    body = require_change(given(name=name_, **members))
    show_object(connection.patch(forced(KIND.one(name), force=force), body), as_json=as_json)


@gateway.command("share")
@click.argument("name")
@click.option("--port", type=int, help="which of its ports [default: the lowest that is free]")
@client_command
def share(name: str, connection: Connection, *, as_json: bool, port: int | None) -> None:
    """Give a gateway a port that leads to all its services, by path or by the model that a request names."""
    show_object(connection.put(f"{KIND.one(name)}/shared-listener", given(port=port)), as_json=as_json)


@gateway.command("unshare")
@click.argument("name")
@yes_option
@client_command
def unshare(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
    """Take a gateway's shared listener away; no service may depend on it."""
    confirm(f"Close the shared listener of gateway {name}? Its clients are refused from then on.", yes=yes)
    connection.delete(f"{KIND.one(name)}/shared-listener")
    show_done("gateway", name, "unshared", as_json=as_json)


add_delete(gateway, KIND, "Remove a gateway that has no listeners.")
gateway.add_command(top)
gateway.add_command(roll)
