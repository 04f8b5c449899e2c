"""`appliance service ...`"""

from __future__ import annotations

import json
from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.following import follow
from appliance.cli.memory import memory_sentence
from appliance.cli.options import client_command, confirm, limit_option, require_change, timeout_option, yes_option
from appliance.cli.output import show_json, show_list, show_object
from appliance.cli.placement import placement_options, take_placement
from appliance.cli.sizes import SIZE
from appliance.cli.traffic import take_traffic, traffic_options
from appliance.cli.waiting import until_gone, until_settled, until_state

COLUMNS = (
    ("NAME", "name"),
    ("TENANT", "tenant"),
    ("STATE", "state"),
    ("READY", "ready_replicas"),
    ("WANTED", "replicas"),
    ("URL", "url"),
    ("REASON", "reason"),
)
EVENT_COLUMNS = (("AT", "at"), ("PHASE", "phase"), ("REPLICA", "replica_id"), ("MESSAGE", "message"))


@click.group(help="Publish models and look after them.")
def service() -> None: ...


@service.command("create")
@click.argument("name")
@click.option("--model", required=True, help="name or id of the model")
@click.option("--model-version", help="branch or tag [default: the model's default version]")
@click.option("--runtime", help="transformers, vllm, ... [default: the best that can serve the model]")
@click.option("--image", help="a registered image of the runtime [default: the runtime's own]")
@click.option("--replicas", type=int, default=1, show_default=True, help="how many engines serve it")
@click.option("--flavor", help="what one replica gets [default: the smallest that suffices]")
@click.option("--pool", help="where replicas are placed")
@click.option("--gateway", help="which gateway listens [default: the first with room]")
@click.option("--listener", type=click.Choice(["own", "shared"]), help="a port of its own, or a path on a shared one")
@click.option("--port", type=int, help="a port of the gateway [default: the lowest that is free]")
@click.option("--served-model", help="the model name clients use [default: NAME]")
@click.option("--device-memory", "device_memory_bytes", type=SIZE, help="of each device, instead of the estimate")
@click.option("--description", default="", help="what it is for")
@click.option("--arg", "args", multiple=True, metavar="--FLAG=VALUE", help="argument for the engine; may be repeated")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="environment of the engine; may be repeated")
@click.option("--defaults", metavar="JSON", help="sampling defaults, e.g. '{\"temperature\": 0.2}'")
@placement_options
@traffic_options
@click.option("--wait", is_flag=True, help="wait until it is ready, telling the phases")
@click.option("--dry-run", is_flag=True, help="only tell what would be chosen, taken and found room for")
@timeout_option
@client_command
def create(
    name: str,
    connection: Connection,
    *,
    as_json: bool,
    wait: bool,
    timeout: float,
    args: tuple[str, ...],
    env: tuple[str, ...],
    defaults: str | None,
    **members: Any,
) -> None:
    """Publish a model as the inference service NAME."""
    dry_run = members.pop("dry_run")
    body = take_traffic(members)({}) | take_placement(members)({})
    body |= {member: value for member, value in members.items() if value is not None}
    body |= {"name": name, "args": list(args), "env": _pairs(env)}
    if defaults:
        body["defaults"] = _json(defaults, "--defaults")
    if dry_run:
        plan = connection.post("service-plans", body)
        told = {"guide": plan["guide"]["text"], "memory": memory_sentence(plan["memory"])}
        show_object(plan if as_json else plan | told, as_json=as_json)
        return
    made = connection.create("services", body)
    if wait:
        made = until_settled(connection, made, timeout_s=timeout)
    show_object(made, as_json=as_json)


@service.command("list")
@click.option("--state", help="only those in this state")
@click.option("--model", help="only those of this model, by name or id")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: str | None) -> None:
    """List services, newest first."""
    show_list(connection.pages("services", limit=limit, **filters), COLUMNS, as_json=as_json)


@service.command("show")
@click.argument("name")
@client_command
def show(name: str, connection: Connection, *, as_json: bool) -> None:
    """Show one service with its deployments and replicas."""
    item = connection.get(f"services/{segment(name)}")
    show_object(item, as_json=as_json)
    if not as_json:
        for deployment in item["deployments"]:
            memory = deployment["memory"]
            reason = f"; {memory['reason']}" if memory and memory["reason"] else ""
            click.echo(f"memory of {deployment['name']}: {memory_sentence(memory)}{reason}")


@service.command("events")
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="the latest so many")
@client_command
def events(name: str, connection: Connection, *, as_json: bool, limit: int) -> None:
    """What happened to the service, oldest first."""
    items = list(connection.pages(f"services/{segment(name)}/events", limit=limit))
    show_list(reversed(items), EVENT_COLUMNS, as_json=as_json)


@service.command("logs")
@click.argument("name")
@click.option("--replica", help="id of a replica [default: the newest]")
@click.option("--tail", type=click.IntRange(1, 10_000), default=200, show_default=True, help="how many lines")
@click.option("--follow", "-f", "keep_on", is_flag=True, help="go on with what is added, until Ctrl-C")
@client_command
def logs(name: str, connection: Connection, *, as_json: bool, replica: str | None, tail: int, keep_on: bool) -> None:
    """The last lines of a replica's log (with --json: an array of lines)."""

    def read(lines: int) -> list[str]:
        params: dict[str, Any] = {"tail": lines} | ({"replica": replica} if replica else {})
        return connection.text(f"services/{segment(name)}/logs", **params).splitlines()

    if keep_on and as_json:
        raise click.UsageError("--follow has no end, and --json is one value: choose one of them")
    if keep_on:
        follow(read, tail)
    elif as_json:
        show_json(read(tail))
    else:
        for line in read(tail):
            click.echo(line)


@service.command("update")
@click.argument("name")
@click.option("--replicas", type=int, help="how many engines serve it")
@click.option("--description", help="what it is for")
@click.option("--defaults", metavar="JSON", help="sampling defaults, all of them, e.g. '{\"temperature\": 0.2}'")
@placement_options
@traffic_options
@click.option("--wait", is_flag=True, help="wait until it is as wanted")
@timeout_option
@client_command
def update(name: str, connection: Connection, *, as_json: bool, wait: bool, timeout: float, **members: Any) -> None:
    """Change a service while it runs; nothing is restarted. What is not given stays as it is."""
    traffic, placement = take_traffic(members), take_placement(members)
    body = {member: value for member, value in members.items() if value is not None}
    if "defaults" in body:
        body["defaults"] = _json(body["defaults"], "--defaults")

    def changes(now: Any) -> dict[str, Any]:
        return require_change(body | traffic(now) | placement(now))

    changed = connection.amend(f"services/{segment(name)}", changes)
    show_object(until_settled(connection, changed, timeout_s=timeout) if wait else changed, as_json=as_json)


@service.command("share")
@click.argument("name")
@click.option("--with", "tenants", multiple=True, metavar="TENANT", help="whose keys may use it; may be repeated")
@click.option("--with-nobody", is_flag=True, help="end the sharing")
@client_command
def share(name: str, connection: Connection, *, as_json: bool, tenants: tuple[str, ...], with_nobody: bool) -> None:
    """Let the keys of these further tenants use the service, and of no others; for the platform to do."""
    if bool(tenants) == with_nobody:
        raise click.UsageError("give either --with, once for each tenant, or --with-nobody")
    show_object(connection.put(f"services/{segment(name)}/shared-with", {"tenants": list(tenants)}), as_json=as_json)


def _action(action: str, description: str) -> click.Command:
    @service.command(action, help=description)
    @click.argument("name")
    @click.option("--wait", is_flag=True, help="wait until it is done")
    @timeout_option
    @client_command
    def command(name: str, connection: Connection, *, as_json: bool, wait: bool, timeout: float) -> None:
        changed = connection.post(f"services/{segment(name)}/{action}")
        show_object(until_settled(connection, changed, timeout_s=timeout) if wait else changed, as_json=as_json)

    return command


_action("start", "Start a stopped service.")
_action("stop", "Stop a service; it keeps its name and port.")


@service.command("wait")
@click.argument("name")
@click.option(
    "--for",
    "goal",
    type=click.Choice(["ready", "stopped", "deleted"]),
    help="[default: ready, or stopped where that is wanted]",
)
@timeout_option
@client_command
def wait_(name: str, connection: Connection, *, as_json: bool, goal: str | None, timeout: float) -> None:
    """Wait until a service is as wanted, telling its events; exit status 1 where it fails or time is up."""
    if goal == "deleted":
        until_gone(connection, name, timeout_s=timeout)
        show_object({"name": name, "state": "deleted"}, as_json=as_json)
        return
    found = connection.get(f"services/{segment(name)}")
    if goal is None:
        show_object(until_settled(connection, found, timeout_s=timeout), as_json=as_json)
    else:
        show_object(until_state(connection, found, goal, timeout_s=timeout), as_json=as_json)


@service.command("delete")
@click.argument("name")
@yes_option
@click.option("--wait", is_flag=True, help="wait until it is gone")
@timeout_option
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, yes: bool, wait: bool, timeout: float) -> None:
    """Stop a service and forget it."""
    confirm(f"Delete service {name}? Its clients are refused from then on.", yes=yes)
    deleted = connection.delete(f"services/{segment(name)}")
    if wait:
        until_gone(connection, deleted["id"], timeout_s=timeout)
    show_object(
        {"id": deleted["id"], "name": deleted["name"], "state": "deleted" if wait else "deleting"}, as_json=as_json
    )


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--env")
        pairs[name] = value
    return pairs


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint=option) from error
