"""What a change would do to what runs, for people: a table of the replicas, and a sentence before it."""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.output import show_json, show_list
from appliance.cli.sizes import readable

_COLUMNS = (
    ("TENANT", "tenant"),
    ("SERVICE", "service"),
    ("REPLICA", "id"),
    ("STATE", "state"),
    ("DEVICES", "count"),
    ("MEMORY", "memory"),
    ("GOES TO", "place"),
    ("WHY NOT", "why_not"),
)


def show_effects(effects: dict[str, Any], *, as_json: bool) -> None:
    """Sizes as people read them; programs get the answer as it is."""
    if as_json:
        show_json(effects)
        return
    replicas = effects["replicas"]
    device_memory = readable(effects["device_memory_bytes"])
    click.echo(
        f"tenants {len(effects['tenants'])}, services {len(effects['services'])}, replicas {len(replicas)}, devices "
        f"{effects['devices']} ({device_memory}); fit elsewhere now: {effects['fitting']} of {len(replicas)} replicas"
    )
    without = sorted(set(effects["services"]) - {f"{one['tenant']}/{one['service']}" for one in replicas})
    if without:
        click.echo(f"also affected, though without a replica now: {', '.join(without)}")
    if replicas:
        show_list(map(_row, replicas), _COLUMNS, as_json=False)


def _row(replica: dict[str, Any]) -> dict[str, Any]:
    place = f"{replica['node']} ({replica['pool']})" if replica["fits"] else None
    memory = readable(replica["memory_bytes"])
    return replica | {"count": len(replica["devices"]), "memory": memory, "place": place}
