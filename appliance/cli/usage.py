"""`appliance usage ...`"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command, limit_option
from appliance.cli.output import Columns, show_list, show_object
from appliance.cli.times import AGO

GROUPINGS = {
    "tenant": "tenant_id",
    "key": "key_id",
    "service": "service_id",
    "model": "model",
    "hour": "period",
    "day": "period",
}
DEVICE_GROUPINGS = {
    "tenant": "tenant_id",
    "service": "service_id",
    "model": "model",
    "hour": "period",
    "day": "period",
}
SUMS = ("requests", "failed", "prompt_tokens", "completion_tokens", "tail_tokens", "estimated")
RECORD_COLUMNS = (
    ("AT", "at"),
    ("KEY", "key_id"),
    ("SERVICE", "service_id"),
    ("MODEL", "model"),
    ("STATUS", "status"),
    ("OUTCOME", "outcome"),
    ("PROMPT", "prompt_tokens"),
    ("COMPLETION", "completion_tokens"),
    ("MS", "duration_ms"),
)
MEASURES = ("first_token", "inter_token", "queue", "duration")
LATENCY_COLUMNS = (
    ("SERVICE", "service_id"),
    ("DEPLOYMENT", "deployment_id"),
    ("MEASURE", "measure"),
    ("COUNT", "count"),
    ("MEAN MS", "mean_ms"),
    ("P50 MS", "p50_ms"),
    ("P90 MS", "p90_ms"),
    ("P95 MS", "p95_ms"),
    ("P99 MS", "p99_ms"),
)
_csv = click.option("--csv", "as_csv", is_flag=True, help="print CSV with a heading")


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--model", help="only this model name, as requests give it"),
        click.option("--service", help="only this service, by name or id"),
        click.option("--for-key", "key_name", metavar="NAME", help="only this API key, by name or id"),
        click.option("--until", type=AGO, help="before then: an instant, or a time ago such as 12h [default: now]"),
        click.option("--since", type=AGO, help="from then on: an instant, or a time ago such as 7d [default: 30d]"),
    ):
        function = option(function)
    return function


@click.group(help="Tokens and requests.")
def usage() -> None: ...


@usage.command("totals")
@_filters
@click.option(
    "--group-by", "group_by", multiple=True, type=click.Choice(list(GROUPINGS)), help="keep apart by; may be repeated"
)
@click.option("--time-zone", metavar="NAME", help="whose hours and days, such as Europe/Berlin [default: UTC]")
@_csv
@client_command
def totals(
    connection: Connection,
    *,
    as_json: bool,
    as_csv: bool,
    group_by: tuple[str, ...],
    time_zone: str | None,
    **filters: str | None,
) -> None:
    """Show requests and tokens in total, or in groups."""
    params = _params(connection, filters)
    report = connection.get("usage", group_by=list(group_by) or None, time_zone=time_zone, **params)
    columns = [(name.upper(), GROUPINGS[name]) for name in group_by] + [
        (name.replace("_", " ").upper(), name) for name in SUMS
    ]
    if as_csv:
        _write_csv(report["items"], columns)
    elif as_json:
        show_object(report, as_json=True)
    else:
        show_list(report["items"], columns, as_json=False)


@usage.command("records")
@_filters
@_csv
@limit_option
@client_command
def records(connection: Connection, *, as_json: bool, as_csv: bool, limit: int | None, **filters: str | None) -> None:
    """List single requests as they were metered, the latest first (without --limit: all of the period)."""
    items = connection.pages("usage/records", limit=limit, **_params(connection, filters))
    if as_csv:
        _write_records(items)
    else:
        show_list(items, RECORD_COLUMNS, as_json=as_json)


@usage.command("devices")
@click.option("--service", help="only this service, by name or id")
@click.option("--until", type=AGO, help="before then: an instant, or a time ago such as 12h [default: now]")
@click.option("--since", type=AGO, help="from that hour on: an instant, or a time ago such as 7d [default: 30d]")
@click.option(
    "--group-by", "group_by", multiple=True, type=click.Choice(list(DEVICE_GROUPINGS)), help="keep apart by; repeatable"
)
@click.option("--time-zone", metavar="NAME", help="whose hours and days, such as Europe/Berlin [default: UTC]")
@_csv
@client_command
def devices(
    connection: Connection,
    *,
    as_json: bool,
    as_csv: bool,
    group_by: tuple[str, ...],
    service: str | None,
    **filters: str | None,
) -> None:
    """Show for how long devices were held, in seconds of whole devices; up to a minute ago of what is held now."""
    service = _id(connection, "services", "svc_", service)
    report = connection.get("usage/devices", group_by=list(group_by) or None, service=service, **filters)
    columns = [(name.upper(), DEVICE_GROUPINGS[name]) for name in group_by] + [("DEVICE SECONDS", "device_seconds")]
    if as_csv:
        _write_csv(report["items"], columns)
    elif as_json:
        show_object(report, as_json=True)
    else:
        show_list(report["items"], columns, as_json=False)


@usage.command("latency")
@click.option("--by", type=click.Choice(["service", "deployment"]), help="keep apart by [default: service]")
@click.option("--deployment", metavar="ID", help="only this deployment")
@click.option("--service", help="only this service, by name or id")
@click.option("--until", type=AGO, help="before then: an instant, or a time ago such as 12h [default: now]")
@click.option("--since", type=AGO, help="from then on: an instant, or a time ago such as 1d [default: 1h]")
@_csv
@client_command
def latency(connection: Connection, *, as_json: bool, as_csv: bool, service: str | None, **filters: str | None) -> None:
    """Show percentiles of the time to the first token, between tokens, in the queue and in all, in milliseconds.

    Each is within 3.2 % of the true one.
    """
    report = connection.get("usage/latency", service=_id(connection, "services", "svc_", service), **filters)
    if as_json:
        show_object(report, as_json=True)
        return
    rows = [
        {"service_id": item["service_id"], "deployment_id": item["deployment_id"], "measure": measure, **item[measure]}
        for item in report["items"]
        for measure in MEASURES
    ]
    if as_csv:
        _write_csv(rows, LATENCY_COLUMNS)
    else:
        show_list(rows, LATENCY_COLUMNS, as_json=False)


def _params(connection: Connection, filters: dict[str, str | None]) -> dict[str, str | None]:
    """Names as ids; an id is taken as it is, since what is deleted has usage still."""
    key, service = filters.pop("key_name"), filters.pop("service")
    return filters | {
        "key": _id(connection, "keys", "key_", key),
        "service": _id(connection, "services", "svc_", service),
    }


def _id(connection: Connection, path: str, prefix: str, name: str | None) -> str | None:
    if name is None or name.startswith(prefix):
        return name
    found: str = connection.get(f"{path}/{segment(name)}")["id"]
    return found


def _write_csv(items: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow([heading.lower().replace(" ", "_") for heading, _ in columns])
    writer.writerows([item[member] for _, member in columns] for item in items)


def _write_records(items: Iterable[Mapping[str, Any]]) -> None:
    writer: csv.DictWriter[str] | None = None
    for item in items:
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(item))
            writer.writeheader()
        writer.writerow(item)
