"""One subject's rows: this worker's own, which it alone writes, and those of the others, which it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, Kind, Rows

if TYPE_CHECKING:
    from appliance.gateway.plane.limits.shared import Counters
    from appliance.gateway.plane.limits.tally import Tally

LASTING: Final = frozenset({Kind.BUDGET_TOTAL, Kind.BUDGET_DAY, Kind.BUDGET_MONTH})
"""Kept when nobody names them any more: a budget may come back."""


class Counter:
    """One subject: `words[at:at + 8]` is this worker's own row of it (layout.py)."""

    __slots__ = (
        "_counters",
        "_living",
        "_rows",
        "alone",
        "at",
        "epoch",
        "gone",
        "hashed",
        "kind",
        "others",
        "shared",
        "tally",
        "users",
        "words",
    )

    def __init__(self, counters: Counters, kind: Kind, hashed: int) -> None:
        self._counters = counters
        self.epoch = -1
        """Of `Counters.epoch`, when its rows were looked up."""
        self._rows: Rows = []
        self._living: Rows = []
        self.others: Rows = []
        """In the tables of the other workers that live, by the byte after the row's hash."""
        self.gone: Rows = []
        """In those of workers that are gone, likewise."""
        self.alone = True
        """Whether it is in no other table."""
        self.kind = kind
        self.hashed = hashed
        self.users = 0
        self.shared = True
        self.words = counters.words
        self.at = 0
        self.tally: Tally | None = None
        """Of a rate, what this worker counts."""

    def add(self, word: int, number: int) -> None:
        """Add to a gauge of this worker."""
        self.words[self.at + word] += number

    def set(self, word: int, number: int) -> None:
        """Replace a gauge of this worker."""
        self.words[self.at + word] = number

    def own(self, word: int) -> int:
        return self.words[self.at + word]

    def held(self, word: int = HELD_REQUESTS) -> int:
        """A gauge, over all workers that live."""
        total = 0
        for words, at in self.living():
            total += words[at + word]
        return total

    def rows(self) -> Rows:
        """In all tables, for sums."""
        if self._counters.current() != self.epoch:
            self.resolve()
        return self._rows

    def living(self) -> Rows:
        """In the tables of workers that live, for gauges."""
        if self._counters.current() != self.epoch:
            self.resolve()
        return self._living

    def resolve(self) -> None:
        """Look up its rows. Due when `epoch` is not `Counters.current()`."""
        self._rows = [(self.words, self.at)]
        self._living = [(self.words, self.at)]
        for peer in self._counters.peers.values():
            at = layout.find(peer.words, self.hashed)
            if at is None:
                continue
            if peer.this_boot or self.kind in LASTING:
                self._rows.append((peer.words, at))
            if peer.alive:
                self._living.append((peer.words, at))
        living = {id(words) for words, _ in self._living}
        self.others = [(words, 8 * at + 8) for words, at in self._living[1:]]
        self.gone = [(words, 8 * at + 8) for words, at in self._rows if id(words) not in living]
        self.alone = not self.others and not self.gone
        self.epoch = self._counters.epoch
