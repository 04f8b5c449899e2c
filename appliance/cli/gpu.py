"""`appliance gpu ...`: the devices as they are now, and as they were."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command
from appliance.cli.output import Columns, show_json, show_list
from appliance.cli.screen import table, watch
from appliance.cli.sizes import readable
from appliance.cli.times import AGO

WHOLE: Final = 100
DEVICES: Final[Columns] = (
    ("NODE", "node"),
    ("DEV", "index"),
    ("MODEL", "model"),
    ("UTIL", "utilisation"),
    ("USED", "used"),
    ("CLAIMED", "claimed"),
    ("FOREIGN", "foreign"),
    ("OF", "total"),
    ("TEMP", "temperature"),
    ("POWER", "power"),
    ("STATE", "shown_state"),
    ("HELD BY", "held_by"),
)
UNITS: Final = {"percent": "%", "celsius": "C", "watts": "W", "devices": "", "replicas": ""}
"""What is written behind a number; bytes are written as people do."""


@click.group(help="Devices as they are now, and their history.")
def gpu() -> None: ...


@gpu.command("top")
@click.option("--node", help="only those of this node")
@click.option("--pool", help="only those of this pool")
@click.option("--once", is_flag=True, help="print one look and end")
@click.option("--every", type=click.FloatRange(0.5), default=2.0, show_default=True, help="seconds between looks")
@client_command
def top(connection: Connection, *, as_json: bool, node: str | None, pool: str | None, once: bool, every: float) -> None:
    """Watch what every device does, and for whom. Devices are probed every compute.probe_period_s (5 s).

    Ctrl-C ends it.
    """

    def found() -> list[dict[str, Any]]:
        items = connection.pages("telemetry/devices", node=node, pool=pool)
        return sorted(items, key=lambda item: (item["node"], item["vendor"], item["index"]))

    if as_json:
        show_json(found())
        return
    watch(lambda: screen(found()), every=every, once=once)


@gpu.command("history")
@click.argument("device_id", metavar="[DEVICE]", required=False)
@click.option("--node", help="all devices of this node together, instead of one")
@click.option("--platform", "of_platform", is_flag=True, help="how many are leased and free, and how fragmented")
@click.option("--held", "of_tenant", is_flag=True, help="what the tenant's replicas held")
@click.option("--step", type=click.IntRange(1, 86_400), help="seconds that one line is of [default: chosen]")
@click.option("--until", type=AGO, help="before then: an instant, or a time ago such as 12h [default: now]")
@click.option("--since", type=AGO, help="from then on: an instant, or a time ago such as 7d [default: 1h]")
@client_command
def history(
    connection: Connection,
    *,
    as_json: bool,
    device_id: str | None,
    node: str | None,
    of_platform: bool,
    of_tenant: bool,
    **filters: Any,
) -> None:
    """Show how DEVICE was used: averages of each step, and of utilisation the highest within it."""
    chosen = {
        f"devices/{segment(device_id or '')}": device_id is not None,
        f"nodes/{segment(node or '')}": node is not None,
        "platform": of_platform,
        "tenant": of_tenant,
    }
    paths = [path for path, is_chosen in chosen.items() if is_chosen]
    if len(paths) != 1:
        raise click.UsageError("name one of: a device, --node, --platform, --held")
    found = connection.get(f"telemetry/{paths[0]}", **filters)
    if as_json:
        show_json(found)
        return
    show_list(*lines(found), as_json=False)


def lines(found: dict[str, Any]) -> tuple[list[dict[str, str]], Columns]:
    """A history as the rows of a table and its columns."""
    rows = [{"at": at} for at in found["times"]]
    columns = [("AT", "at")]
    for gauge in found["gauges"]:
        kinds = ("mean", "peak") if gauge["name"] == "utilisation" else ("mean",)
        for kind in kinds:
            member = f"{gauge['name']}_{kind}"
            columns.append((gauge["name"].replace("_", " ").upper() if kind == "mean" else "PEAK", member))
            for row, value in zip(rows, gauge[kind], strict=True):
                row[member] = _with_unit(value, gauge["unit"])
    return rows, columns


def _with_unit(value: float | None, unit: str) -> str:
    if unit == "bytes":
        return _size(value)
    return "-" if value is None else f"{value:.4g}{UNITS[unit]}"


def screen(items: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of one look."""
    states = Counter(item["state"] for item in items)
    told = "  ".join(f"{state} {count}" for state, count in sorted(states.items()))
    used, total = (sum(item[name] or 0 for item in items) for name in ("memory_used_bytes", "memory_bytes"))
    simulated = sum(item["simulated"] for item in items)
    yield (
        f"devices {len(items)}{f' ({simulated} simulated)' if simulated else ''}  {told}  "
        f"memory {readable(used)} of {readable(total)}  {time.strftime('%H:%M:%S')}"
    )
    yield ""
    yield from table([_row(item) for item in items], DEVICES) if items else ["no devices"]


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return item | {
        "utilisation": _measured(item["utilisation_percent"], "{:.0f}%"),
        "used": _size(item["memory_used_bytes"]),
        "claimed": _size(item["memory_claimed_bytes"]),
        "foreign": _size(item["memory_foreign_bytes"]),
        "total": readable(item["memory_bytes"]),
        "temperature": _measured(item["temperature_c"], "{:.0f}C"),
        "power": _measured(item["power_w"], "{:.0f}W"),
        "shown_state": f"{item['state']}, cordoned" if item["cordoned"] is not None else item["state"],
        "held_by": ", ".join(_holder(holder) for holder in item["holders"]) or "-",
    }


def _holder(holder: dict[str, Any]) -> str:
    share = f" {holder['share']}%" if holder["share"] < WHOLE else ""
    return f"{holder['tenant']}/{holder['service']}/{holder['replica_id']}{share}"


def _measured(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _size(value: float | None) -> str:
    return "-" if value is None else readable(round(value))
