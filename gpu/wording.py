"""Numbers and lists as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

GIB = 1024**3
_SHOWN = 4


def gib(amount: int, digits: int = 1) -> str:
    return f"{amount / GIB:.{digits}f} GiB"


def compared(needed: int, available: int) -> tuple[str, str]:
    """Both in GiB, with as many digits as it takes to see that they differ."""
    for digits in range(1, 4):
        if gib(needed, digits) != gib(available, digits):
            return gib(needed, digits), gib(available, digits)
    return f"{needed} bytes", f"{available} bytes"


def number(amount: float) -> str:
    return f"{amount:g}"


def counted(amount: float, noun: str) -> str:
    return f"{number(amount)} {noun}" if amount == 1 else f"{number(amount)} {noun}s"


def either(names: Sequence[str]) -> str:
    return " or ".join(names)


def listed(parts: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(parts[:_SHOWN])
    return f"{shown} and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else shown
