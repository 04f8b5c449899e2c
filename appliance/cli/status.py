"""`appliance status`"""

from __future__ import annotations

import click

from appliance.cli.connection import Connection
from appliance.cli.errors import CommandFailed
from appliance.cli.options import client_command
from appliance.cli.output import show_list, show_object

COLUMNS = (
    ("RECONCILER", "name"),
    ("ROUNDS", "rounds"),
    ("FAILURES", "failures"),
    ("LAST", "last_started_at"),
    ("SECONDS", "seconds"),
    ("RESULT", "outcome"),
)


@click.command()
@client_command
def status(connection: Connection, *, as_json: bool) -> None:
    """Show whether the appliance works, and what its reconcilers did last; exit status 1 where one fails."""
    found = connection.get("status")
    if as_json:
        show_object(found, as_json=True)
    else:
        show_object({name: value for name, value in found.items() if name != "reconcilers"}, as_json=False)
        click.echo()
        show_list(map(_row, found["reconcilers"]), COLUMNS, as_json=False)
    failing = [reconciler["name"] for reconciler in found["reconcilers"] if reconciler["last_error"] is not None]
    if failing:
        raise CommandFailed(f"failing: {', '.join(failing)}")


def _row(reconciler: dict[str, object]) -> dict[str, object]:
    duration = reconciler["last_duration_s"]
    seconds = f"{duration:.3f}" if isinstance(duration, float) else None
    return reconciler | {"seconds": seconds, "outcome": reconciler["last_error"] or reconciler["last_result"]}
