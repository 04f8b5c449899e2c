"""How far long work is: written by the thread that works, read by the loop that tells; and a way to end it."""

from __future__ import annotations

import threading


class Stopped(Exception):
    """Nobody waits for the work any more."""


class Progress:
    """`done` of `total`, in bytes; `total` may grow. `beats` grows with every sign of life, 0 is "not begun"."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.beats = 0
        self._stop = threading.Event()

    def report(self, done: int, total: int) -> None:
        """Raises `Stopped` where that was asked for."""
        if self._stop.is_set():
            raise Stopped
        self.done, self.total = done, total
        self.beats += 1

    def advance(self, amount: int) -> None:
        self.report(self.done + amount, self.total)

    def stop(self) -> None:
        self._stop.set()

    @property
    def tenths(self) -> int:
        """Of the whole, rounded down; 0 while the whole is not known."""
        return min(10, 10 * self.done // self.total) if self.total else 0
