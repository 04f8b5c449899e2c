"""What every command of the client has: where to ask, and how to show the answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from appliance.cli.connection import Target


def client_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `connection` and `as_json`, from options that stand after the command's name."""

    @click.option("--url", metavar="URL", help="the appliance's API [env: APPLIANCE_URL]")
    @click.option("--key", metavar="KEY", help="an API key [env: APPLIANCE_KEY]")
    @click.option("--ca", metavar="FILE", help="the appliance's CA [env: APPLIANCE_CA]")
    @click.option("--tenant", metavar="TENANT", help="name or id of the tenant acted on [env: APPLIANCE_TENANT]")
    @click.option("--json", "as_json", is_flag=True, help="print JSON")
    @functools.wraps(function)
    def wrapped(
        *args: Any, url: str | None, key: str | None, ca: str | None, tenant: str | None, as_json: bool, **options: Any
    ) -> Any:
        connection = Target(url, key, ca, tenant).connect()
        return function(*args, connection=connection, as_json=as_json, **options)

    return wrapped
