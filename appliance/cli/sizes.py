"""Bytes as people write and read them, in powers of 1024."""

from __future__ import annotations

import re
from typing import Final

import click

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE)


def readable(size: int) -> str:
    """`1536` is `1.5 KiB`."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"


class Size(click.ParamType[int]):
    """`512M`, `1.5GiB` or a number of bytes; converts to bytes."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is no size such as 512M, 1.5GiB or a number of bytes", param, ctx)
        return int(float(found[1]) * 1024 ** "BKMGT".index(found[2].upper() or "B"))


SIZE: Final = Size()
