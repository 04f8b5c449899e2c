"""Following a log that can only be asked for its last lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import click

_PAUSE_S: Final = 0.5
_WINDOW: Final = 1000
"""Lines asked for at each look; what a log grows by between two looks should be less."""


def follow(read: Callable[[int], list[str]], tail: int) -> None:
    """Print the last `tail` lines, then what is added; `read(n)` gives the last n lines. Ends by Ctrl-C alone."""
    seen = read(_WINDOW)
    for line in seen[-tail:]:
        click.echo(line)
    while True:
        time.sleep(_PAUSE_S)
        now = read(_WINDOW)
        for line in added(seen, now):
            click.echo(line)
        seen = now


def added(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of `now` that came after `before`: `now` begins with an end of `before`, the longest that fits.

    Where nothing fits (another replica's log, or more lines than the window holds) all of `now` is new.
    """
    for skipped in range(len(before)):
        overlap = len(before) - skipped
        if overlap <= len(now) and list(before[skipped:]) == list(now[:overlap]):
            return now[overlap:]
    return now
