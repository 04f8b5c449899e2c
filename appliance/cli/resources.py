"""The commands that every kind of object has: list, show, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command, confirm, limit_option, yes_option
from appliance.cli.output import Columns, show_done, show_list, show_object


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: what it is called, the path of its list, and the columns of its table."""

    noun: str
    path: str
    columns: Columns

    def one(self, name: str) -> str:
        return f"{self.path}/{segment(name)}"


def _as_it_is(item: dict[str, Any]) -> dict[str, Any]:
    return item


def add_list(
    group: click.Group, kind: Kind, description: str, row: Callable[[dict[str, Any]], dict[str, Any]] = _as_it_is
) -> None:
    """`row`: what people are shown of an object; programs get it as it is."""

    @group.command("list", help=description)
    @limit_option
    @client_command
    def list_(connection: Connection, *, as_json: bool, limit: int | None) -> None:
        items = connection.pages(kind.path, limit=limit)
        show_list(items if as_json else map(row, items), kind.columns, as_json=as_json)


def add_show(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("show", help=description)
    @click.argument("name")
    @client_command
    def show(name: str, connection: Connection, *, as_json: bool) -> None:
        show_object(connection.get(kind.one(name)), as_json=as_json)


def add_reset_password(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("reset-password", help=description)
    @click.argument("name")
    @yes_option
    @client_command
    def reset_password(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
        confirm(f"End all logins of {name} and set a new password?", yes=yes)
        show_object(connection.post(f"{kind.one(name)}/password"), as_json=as_json)


def add_delete(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("delete", help=description)
    @click.argument("name")
    @yes_option
    @client_command
    def delete(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
        confirm(f"Delete {kind.noun} {name}?", yes=yes)
        connection.delete(kind.one(name))
        show_done(kind.noun, name, "deleted", as_json=as_json)
