"""What every command of the client has: where to ask, and how to show the answer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from appliance.cli.connection import Target
from appliance.cli.errors import CommandFailed

limit_option = click.option("--limit", type=click.IntRange(min=1), help="at most so many [default: all]")
yes_option = click.option("--yes", is_flag=True, help="do not ask, on a terminal either")
access_option = click.option(
    "--access", type=click.Choice(["public", "dedicated"]), help="every tenant may use it, or those with a grant"
)
force_option = click.option("--force", is_flag=True, help="although services run by it: they are drained")
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), default=900.0, show_default=True, help="seconds to wait"
)


def client_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `connection` and `as_json`, from options that stand after the command's name."""

    @click.option("--url", metavar="URL", help="the appliance's API [env: APPLIANCE_URL]")
    @click.option("--key", metavar="KEY", help="an API key [env: APPLIANCE_KEY]")
    @click.option("--ca", metavar="FILE", help="the appliance's CA [env: APPLIANCE_CA]")
    @click.option("--tenant", metavar="TENANT", help="name or id of the tenant acted on [env: APPLIANCE_TENANT]")
    @click.option("--json", "as_json", is_flag=True, help="print one JSON value: an object, for lists an array")
    @functools.wraps(function)
    def wrapped(
        *args: Any, url: str | None, key: str | None, ca: str | None, tenant: str | None, as_json: bool, **options: Any
    ) -> Any:
        connection = Target(url, key, ca, tenant).connect()
        return function(*args, connection=connection, as_json=as_json, **options)

    return wrapped


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal unless `--yes`; scripts are not asked. Anything but yes is `CommandFailed`."""
    if yes or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        raise CommandFailed("nothing was done")


def forced(path: str, *, force: bool) -> str:
    """The path with the parameter that insists."""
    return f"{path}?force=true" if force else path


def given(**members: Any) -> dict[str, Any]:
    """The members that were given: options that were left out are None or empty."""
    return {name: value for name, value in members.items() if value is not None and value != ()}


def require_change(body: dict[str, Any]) -> dict[str, Any]:
    """`body`, or a usage error where no option said what to change."""
    if not body:
        raise click.UsageError("say what to change: give at least one of the options")
    return body
