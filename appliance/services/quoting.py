"""What engines say, made fit to be stored and shown: bounded, and without control characters.

PostgreSQL stores no NUL, so that one engine's last word could otherwise stop whoever writes it down.
"""

from __future__ import annotations

from typing import Final

LONGEST_QUOTE: Final = 300


def quote(text: str) -> str:
    """The beginning of `text`, in characters that a terminal and both databases take."""
    printable = (letter if letter.isprintable() else " " for letter in text[:LONGEST_QUOTE])
    return "".join(printable).rstrip()
