"""The run's result as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.gateway.goals import Goal, Rounds, goals, median
from bench.gateway.measuring import Sample

_COLUMNS: Final = (
    ("requests_per_s", "requests/s", "{:,.0f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("cpu_us_per_request", "CPU us/req", "{:.1f}"),
    ("busy", "core busy", "{:.2f}"),
    ("cpu_us_per_chunk", "CPU us/chunk", "{:.1f}"),
    ("open_p50_ms", "p50 ms @200/s", "{:.3f}"),
    ("open_p99_ms", "p99 ms @200/s", "{:.3f}"),
    ("tls_requests_per_s", "TLS req/s", "{:,.0f}"),
    ("tls_cpu_us_per_request", "TLS CPU us/req", "{:.1f}"),
)
_MEMORY: Final = (
    ("idle_bytes", "idle KiB"),
    ("stream_bytes", "stream KiB"),
    ("tls_idle_bytes", "TLS idle KiB"),
    ("tls_stream_bytes", "TLS stream KiB"),
)


def render(rounds: Rounds, memory: Mapping[str, Sample], peers: Sequence[str], head: str) -> str:
    lines = [head, "", f"medians of {len(rounds)} rounds"]
    lines += _table(["", *(title for _, title, _ in _COLUMNS)], [_row(rounds, peer) for peer in peers])
    if memory:
        rows = [
            [peer, *(f"{sample[name] / 1024:.1f}" if name in sample else "-" for name, _ in _MEMORY)]
            for peer, sample in memory.items()
        ]
        lines += ["", "resident memory that a connection adds", *_table(["", *(t for _, t in _MEMORY)], rows)]
    lines += ["", "goals (ratios within each round, then their median)"]
    lines += [_told(goal) for goal in goals(rounds, memory)]
    return "\n".join(lines)


def _row(rounds: Rounds, peer: str) -> list[str]:
    values = [(median(rounds, peer, figure), form) for figure, _, form in _COLUMNS]
    return [peer, *("-" if value is None else form.format(value) for value, form in values)]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in [head, *rows])
    ]


def _told(goal: Goal) -> str:
    value = "not measured" if goal.value is None else f"{goal.value:.2f} {goal.unit}"
    bound = f"{'at least' if goal.at_least else 'at most'} {goal.bound:g}"
    by_cpu = "" if goal.by_cpu is None else f"   ({goal.by_cpu:.2f} by CPU time)"
    return f"  {goal.name:<44}{value:>14}   {bound}{'   MISSED' if goal.met is False else ''}{by_cpu}"
