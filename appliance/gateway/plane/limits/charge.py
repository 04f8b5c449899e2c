"""Adding what one request used to several budgets: in one step, as far as a kill of the worker can see.

The new values of the words are written down first, then a count that makes them valid, then the words themselves;
who takes over the table repeats what it finds written down. The last request that was charged is kept by name: a
request that its worker was killed over may have been charged just before, and is not charged again.
"""

from __future__ import annotations

from typing import Final

MOST_WORDS: Final = 240
"""How many words one charge may change; a budget takes one, or two in a new period."""
_COUNT, _CHARGING, _CHARGED, _CHANGES = 8, 9, 10, 16
"""In the table's first page."""

Changes = list[tuple[int, int]]
"""Indexes of words and their new values."""


def charge(words: memoryview[int], request: int, changes: Changes) -> None:
    """Make the changes, once, for a request (64 bits of a hash of its record's id)."""
    at = _CHANGES
    for index, value in changes[:MOST_WORDS]:
        words[at] = index
        words[at + 1] = value
        at += 2
    words[_CHARGING] = request
    words[_COUNT] = (at - _CHANGES) // 2
    finish_charge(words)
    for index, value in changes[MOST_WORDS:]:  # of a request with more budgets than anybody has
        words[index] = value


def finish_charge(words: memoryview[int]) -> None:
    """Make the changes that are written down, if there are any that were not all made."""
    count = words[_COUNT]
    if count == 0:
        return
    for at in range(_CHANGES, _CHANGES + 2 * count, 2):
        words[words[at]] = words[at + 1]
    words[_CHARGED] = words[_CHARGING]
    words[_COUNT] = 0


def charged_last(words: memoryview[int]) -> int:
    """The request that was charged last; 0 if none was."""
    return words[_CHARGED]
