"""`appliance service ...`"""

from __future__ import annotations

import json
import uuid
from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command
from appliance.cli.output import show_list, show_object
from appliance.cli.waiting import until_gone, until_settled

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
_timeout = click.option("--timeout", default=900.0, show_default=True, help="seconds to wait")


@click.group(help="Publish models and look after them.")
def service() -> None: ...


@service.command("create")
@click.argument("name")
@click.option("--model", required=True, help="name or id of the model")
@click.option("--model-version", help="branch or tag [default: the model's default version]")
@click.option("--runtime", help="transformers, vllm, ... [default: the best that can serve the model]")
@click.option("--replicas", type=int, default=1, show_default=True)
@click.option("--flavor", help="what one replica gets [default: the smallest]")
@click.option("--pool", help="where replicas are placed")
@click.option("--gateway", help="which gateway listens [default: the first with room]")
@click.option("--port", type=int, help="a port of the gateway [default: the lowest that is free]")
@click.option("--served-model", help="the model name clients use [default: NAME]")
@click.option("--description", default="")
@click.option("--arg", "args", multiple=True, metavar="--FLAG=VALUE", help="argument for the engine; may be repeated")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="environment of the engine; may be repeated")
@click.option("--defaults", metavar="JSON", help="sampling defaults, e.g. '{\"temperature\": 0.2}'")
@click.option("--wait", is_flag=True, help="wait until it is ready, telling the phases")
@_timeout
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
    body = {member: value for member, value in members.items() if value is not None}
    body |= {"name": name, "args": list(args), "env": _pairs(env)}
    if defaults:
        body["defaults"] = _json(defaults, "--defaults")
    made = connection.post("services", body, **{"Idempotency-Key": str(uuid.uuid4())})
    if wait:
        made = until_settled(connection, made, timeout_s=timeout)
    show_object(made, as_json=as_json)


@service.command("list")
@click.option("--state", help="only those in this state")
@click.option("--limit", type=int, help="at most so many")
@client_command
def list_(connection: Connection, *, as_json: bool, state: str | None, limit: int | None) -> None:
    """List services, newest first."""
    show_list(connection.pages("services", limit=limit, state=state), COLUMNS, as_json=as_json)


@service.command("show")
@click.argument("name")
@client_command
def show(name: str, connection: Connection, *, as_json: bool) -> None:
    """Show one service with its deployments and replicas."""
    show_object(connection.get(f"services/{segment(name)}"), as_json=as_json)


@service.command("events")
@click.argument("name")
@click.option("--limit", type=int, default=50, show_default=True)
@client_command
def events(name: str, connection: Connection, *, as_json: bool, limit: int) -> None:
    """What happened to the service, oldest first."""
    items = list(connection.pages(f"services/{segment(name)}/events", limit=limit))
    show_list(reversed(items), EVENT_COLUMNS, as_json=as_json)


@service.command("logs")
@click.argument("name")
@click.option("--replica", help="id of a replica [default: the newest]")
@click.option("--tail", type=int, default=200, show_default=True, help="how many lines")
@client_command
def logs(name: str, connection: Connection, *, as_json: bool, replica: str | None, tail: int) -> None:
    """The last lines of a replica's log."""
    params: dict[str, Any] = {"tail": tail} | ({"replica": replica} if replica else {})
    text = connection.text(f"services/{segment(name)}/logs", **params)
    click.echo(json.dumps(text.splitlines()) if as_json else text)


@service.command("update")
@click.argument("name")
@click.option("--replicas", type=int)
@click.option("--description")
@click.option("--defaults", metavar="JSON")
@click.option("--wait", is_flag=True)
@_timeout
@client_command
def update(name: str, connection: Connection, *, as_json: bool, wait: bool, timeout: float, **members: Any) -> None:
    """Change replicas, description or sampling defaults; nothing is restarted."""
    body = {member: value for member, value in members.items() if value is not None}
    if "defaults" in body:
        body["defaults"] = _json(body["defaults"], "--defaults")
    changed = connection.patch(f"services/{segment(name)}", body)
    show_object(until_settled(connection, changed, timeout_s=timeout) if wait else changed, as_json=as_json)


def _action(action: str, description: str) -> click.Command:
    @service.command(action, help=description)
    @click.argument("name")
    @click.option("--wait", is_flag=True, help="wait until it is done")
    @_timeout
    @client_command
    def command(name: str, connection: Connection, *, as_json: bool, wait: bool, timeout: float) -> None:
        changed = connection.post(f"services/{segment(name)}/{action}")
        show_object(until_settled(connection, changed, timeout_s=timeout) if wait else changed, as_json=as_json)

    return command


_action("start", "Start a stopped service.")
_action("stop", "Stop a service; it keeps its name and port.")


@service.command("delete")
@click.argument("name")
@click.option("--wait", is_flag=True, help="wait until it is gone")
@_timeout
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, wait: bool, timeout: float) -> None:
    """Stop a service and forget it."""
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
