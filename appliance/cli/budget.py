"""`appliance budget ...`"""

from __future__ import annotations

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, given, limit_option
from appliance.cli.output import show_list, show_object
from appliance.cli.resources import Kind, add_delete, add_show

KIND = Kind(
    "budget",
    "budgets",
    (
        ("FOR", "kind"),
        ("NAME", "subject_name"),
        ("PERIOD", "period"),
        ("TOKENS", "tokens"),
        ("SPENT", "spent"),
        ("RESETS", "resets_at"),
        ("ID", "id"),
    ),
)
_tokens = click.option("--tokens", type=click.IntRange(min=0), required=True, help="of prompts and answers together")


@click.group(help="Token budgets of keys, services and tenants.")
def budget() -> None: ...


@budget.command("create")
@click.option("--for-key", "key_", help="name or id of the key that it bounds")
@click.option("--for-service", "service_", help="name or id of the service that it bounds")
@click.option("--for-tenant", "tenant_", help="name or id of the tenant that it bounds; for the platform to set")
@_tokens
@click.option(
    "--period",
    type=click.Choice(["total", "day", "month"]),
    default="total",
    show_default=True,
    help="days and months of UTC",
)
@client_command
def create(connection: Connection, *, as_json: bool, tokens: int, period: str, **subject: str | None) -> None:
    """Bound the tokens of a key, a service or a tenant."""
    subjects = given(key=subject["key_"], service=subject["service_"], tenant=subject["tenant_"])
    if len(subjects) != 1:
        raise click.UsageError("say what it is for: give one of --for-key, --for-service and --for-tenant")
    show_object(connection.create(KIND.path, subjects | {"tokens": tokens, "period": period}), as_json=as_json)


@budget.command("list")
@click.option("--kind", type=click.Choice(["key", "service", "tenant"]), help="only those of keys, services or tenants")
@click.option("--subject", help="only those of what has this name or id")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: str | None) -> None:
    """List budgets with what was spent of them, newest first."""
    show_list(connection.pages(KIND.path, limit=limit, **filters), KIND.columns, as_json=as_json)


add_show(budget, KIND, "Show one budget, by its id.")


@budget.command("update")
@click.argument("name", metavar="ID")
@_tokens
@client_command
def update(name: str, connection: Connection, *, as_json: bool, tokens: int) -> None:
    """Set another bound; what was spent stays."""
    show_object(connection.patch(KIND.one(name), {"tokens": tokens}), as_json=as_json)


add_delete(budget, KIND, "Lift a budget.")
