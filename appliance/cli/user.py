"""`appliance user ...`"""

from __future__ import annotations

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, given, require_change
from appliance.cli.output import show_object
from appliance.cli.resources import Kind, add_delete, add_list, add_reset_password, add_show

KIND = Kind(
    "user",
    "users",
    (
        ("NAME", "name"),
        ("DISPLAY NAME", "display_name"),
        ("PLATFORM ADMIN", "is_platform_admin"),
        ("MUST CHANGE PASSWORD", "must_change_password"),
        ("ID", "id"),
    ),
)
_admin = click.option(
    "--platform-admin/--no-platform-admin",
    "is_platform_admin",
    default=None,
    help="whether the user administers the platform",
)


@click.group(help="The users of the platform.")
def user() -> None: ...


@user.command("create")
@click.argument("name")
@click.option("--display-name", help="what people read [default: NAME]")
@_admin
@client_command
def create(
    name: str, connection: Connection, *, as_json: bool, display_name: str | None, is_platform_admin: bool | None
) -> None:
    """Create the user NAME with a one-time password, shown this once."""
    body = given(name=name, display_name=display_name, is_platform_admin=is_platform_admin)
    made = connection.create(KIND.path, body)
    show_object(made if as_json else made["user"] | given(one_time_password=made["one_time_password"]), as_json=as_json)


add_list(user, KIND, "List users, newest first.")
add_show(user, KIND, "Show one user.")


@user.command("update")
@click.argument("name")
@click.option("--display-name", help="what people read")
@_admin
@client_command
def update(
    name: str, connection: Connection, *, as_json: bool, display_name: str | None, is_platform_admin: bool | None
) -> None:
    """Rename a user, or change whether the user administers the platform."""
    body = require_change(given(display_name=display_name, is_platform_admin=is_platform_admin))
    show_object(connection.patch(KIND.one(name), body), as_json=as_json)


add_reset_password(user, KIND, "Give a user a one-time password, shown this once; all logins end.")


add_delete(user, KIND, "Delete a user with memberships and logins.")
