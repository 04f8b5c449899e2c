"""Options of a service that say where its replicas go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from appliance.cli.maintenance import labels_of


def placement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--spread`, `--node-label` and `--preemptible`."""
    preemptible = click.option(
        "--preemptible/--not-preemptible",
        default=None,
        help="replicas may be stopped for those of tenants of a higher priority [default: not]",
    )
    node_labels = click.option(
        "--node-label",
        "node_labels",
        metavar="KEY=VALUE",
        multiple=True,
        help="only on nodes with this label; all together replace what was, '' is any node",
    )
    spread = click.option(
        "--spread/--pack",
        default=None,
        help="replicas on as many nodes as there are, or so that large holes stay whole [default: pack]",
    )
    return spread(node_labels(preemptible(command)))


def take_placement(options: dict[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Take these options out of a command's. What comes back makes of a service as it is now the member of a request
    that changes it, with what was not given as it was.
    """
    spread = options.pop("spread")
    labels = labels_of(options.pop("node_labels"), "--node-label")
    preemptible = options.pop("preemptible")
    strategy = None if spread is None else "spread" if spread else "pack"
    told = {"strategy": strategy, "node_labels": labels, "preemptible": preemptible}
    given = {name: value for name, value in told.items() if value is not None}

    def changes(now: Mapping[str, Any]) -> dict[str, Any]:
        if not given:
            return {}
        before: Mapping[str, Any] = next((deployment["placement"] for deployment in now.get("deployments", ())), {})
        return {"placement": {**before, **given}}

    return changes
