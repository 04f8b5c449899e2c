"""How far something long is, on the standard error output: one living line on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Final

from appliance.cli.sizes import readable

_LIVE_S: Final = 0.2
_QUIET_S: Final = 10.0


class Progress:
    """Of `total` bytes; `label` says what is done with them."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._live = sys.stderr.isatty()
        self._begun = self._shown_at = time.monotonic()
        self._first: int | None = None
        self._shown = ""

    def update(self, done: int) -> None:
        """`done` bytes are there now; shown if it is time to."""
        if self._first is None:
            self._first = done
        now = time.monotonic()
        if now - self._shown_at >= (_LIVE_S if self._live else _QUIET_S):
            self._shown_at = now
            self._show(done, now)

    def close(self, done: int) -> None:
        """Show the end and leave the line."""
        self.update(done)
        self._show(done, time.monotonic())
        if self._live:
            sys.stderr.write("\n")
        sys.stderr.flush()

    def _show(self, done: int, now: float) -> None:
        share = 100 * done // self._total if self._total else 100
        rate = (done - (self._first or 0)) / max(now - self._begun, 0.001)
        text = f"{self._label}: {readable(done)} of {readable(self._total)} ({share} %), {readable(int(rate))}/s"
        padding = " " * max(len(self._shown) - len(text), 0)
        sys.stderr.write(f"\r{text}{padding}" if self._live else f"{text}\n")
        sys.stderr.flush()
        self._shown = text
