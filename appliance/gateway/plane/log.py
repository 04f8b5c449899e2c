"""Structured logs as JSON lines on stderr, with the members that the control plane's log has.

A few lines instead of a library: each worker's memory and start-up time count. A log that cannot be written (a
full disk, a closed pipe) never disturbs traffic.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Final

import msgspec

_STDERR: Final = 2


class Log:
    """`bound` is added to each line. Events are constant past-tense names: `worker.started`."""

    def __init__(self, **bound: object) -> None:
        self._bound = bound

    def info(self, event: str, **data: object) -> None:
        self._write("info", event, data)

    def warning(self, event: str, **data: object) -> None:
        self._write("warning", event, data)

    def error(self, event: str, **data: object) -> None:
        self._write("error", event, data)

    def _write(self, level: str, event: str, data: dict[str, object]) -> None:
        line = {
            "event": event,
            "level": level,
            "timestamp": datetime.now(UTC).isoformat(),
            **self._bound,
            "pid": os.getpid(),
            **data,
        }
        try:
            os.write(_STDERR, msgspec.json.encode(line, enc_hook=str) + b"\n")
        except OSError:
            return
