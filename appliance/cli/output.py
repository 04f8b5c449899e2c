"""Tables for people; for programs (`--json`) exactly one JSON value on the standard output.

An object is one object, a list one array, so that a command's whole output is what a JSON parser takes. What is
told on the way (progress, events, questions) goes to the standard error output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

Columns = Sequence[tuple[str, str]]
"""Heading and member of each column; `a.b` reaches into objects."""


def show_list(items: Iterable[Mapping[str, Any]], columns: Columns, *, as_json: bool) -> None:
    if as_json:
        show_json(list(items))
        return
    rows = [[cell(reach(item, member)) for _, member in columns] for item in items]
    if not rows:
        click.echo("none", err=True)
        return
    headings = [heading for heading, _ in columns]
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(columns))]
    for row in [headings, *rows]:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def show_object(item: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(item)
        return
    width = max((len(name) for name in item), default=0)
    for name, value in item.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            click.echo(f"{name}:")
            for entry in value:
                click.echo("  - " + ", ".join(f"{key}={cell(inner)}" for key, inner in entry.items() if _plain(inner)))
        else:
            click.echo(f"{name.ljust(width)}  {cell(value)}")


def show_done(kind: str, name: str, done: str, *, as_json: bool) -> None:
    """For what answers without an object: `key laptop: deleted`."""
    if as_json:
        show_json({"kind": kind, "name": name, "state": done})
    else:
        click.echo(f"{kind} {name}: {done}")


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def tell(text: str) -> None:
    """One line for a person who waits."""
    click.echo(text, err=True)


def reach(item: Mapping[str, Any], member: str) -> Any:
    value: Any = item
    for part in member.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(map(str, value)) or "-"
        case dict():
            return json.dumps(value, ensure_ascii=False) if value else "-"
        case _:
            return str(value)


def _plain(value: Any) -> bool:
    return value is not None and not isinstance(value, list | dict)
