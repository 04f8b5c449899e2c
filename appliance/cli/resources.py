"""The commands that every kind of object has: list, show, delete."""

from __future__ import annotations

from dataclasses import dataclass

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


def add_list(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("list", help=description)
    @limit_option
    @client_command
    def list_(connection: Connection, *, as_json: bool, limit: int | None) -> None:
        show_list(connection.pages(kind.path, limit=limit), kind.columns, as_json=as_json)


def add_show(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("show", help=description)
    @click.argument("name")
    @client_command
    def show(name: str, connection: Connection, *, as_json: bool) -> None:
        show_object(connection.get(kind.one(name)), as_json=as_json)


def add_delete(group: click.Group, kind: Kind, description: str) -> None:
    @group.command("delete", help=description)
    @click.argument("name")
    @yes_option
    @client_command
    def delete(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
        confirm(f"Delete {kind.noun} {name}?", yes=yes)
        connection.delete(kind.one(name))
        show_done(kind.noun, name, "deleted", as_json=as_json)
