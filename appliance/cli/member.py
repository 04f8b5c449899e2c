"""`appliance member ...`"""

from __future__ import annotations

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, confirm, given, yes_option
from appliance.cli.output import show_done, show_object
from appliance.cli.resources import Kind, add_list, add_reset_password

KIND = Kind(
    "member", "members", (("NAME", "name"), ("DISPLAY NAME", "display_name"), ("ROLE", "role"), ("USER", "user_id"))
)
_role = click.Choice(["tenant_admin", "developer", "viewer"])


@click.group(help="Who belongs to a tenant, in which role.")
def member() -> None: ...


@member.command("add")
@click.argument("name")
@click.option("--role", type=_role, required=True, help="what the member may do")
@click.option("--display-name", help="what people read, for a new user [default: NAME]")
@client_command
def add(name: str, connection: Connection, *, as_json: bool, role: str, display_name: str | None) -> None:
    """Make the user NAME a member; a new user gets a one-time password, shown this once."""
    added = connection.create(KIND.path, given(name=name, role=role, display_name=display_name))
    show_object(
        added if as_json else added["member"] | given(one_time_password=added["one_time_password"]), as_json=as_json
    )


add_list(member, KIND, "List the tenant's members.")


@member.command("set-role")
@click.argument("name")
@click.argument("role", type=_role)
@client_command
def set_role(name: str, role: str, connection: Connection, *, as_json: bool) -> None:
    """Give a member another role."""
    show_object(connection.patch(KIND.one(name), {"role": role}), as_json=as_json)


@member.command("remove")
@click.argument("name")
@yes_option
@client_command
def remove(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
    """Take a membership away; the keys that the member made stay the tenant's."""
    confirm(f"Remove member {name}?", yes=yes)
    connection.delete(KIND.one(name))
    show_done(KIND.noun, name, "removed", as_json=as_json)


add_reset_password(
    member, KIND, "Give a member of this tenant alone a one-time password, shown this once; all logins end."
)
