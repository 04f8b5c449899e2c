"""Tables that are drawn anew in place, for commands that a person watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import click

from appliance.cli.output import Columns, reach

_HOME_LINE: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"


def watch(look: Callable[[], Iterable[str]], *, every: float, once: bool) -> None:
    """Show the lines of one look after the other, `every` so many seconds until Ctrl-C; only one if what is printed
    goes to no terminal.
    """
    while True:
        lines = list(look())
        if once or not sys.stdout.isatty():
            click.echo("\n".join(lines))
            return
        shown = lines[: os.get_terminal_size().lines - 1]
        click.echo(_HOME_LINE + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_BELOW, nl=False)
        time.sleep(every)


def table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Iterator[str]:
    """The lines of a table with headings; on a terminal cut to its width."""
    cells = [[heading for heading, _ in columns]]
    cells += [[str(reach(row, member)) for _, member in columns] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in cells:
        yield "  ".join(text.ljust(width_) for text, width_ in zip(row, widths, strict=True)).rstrip()[:width]
