"""What keeps the data plane's files bounded while nobody else does, in a thread of the supervisor.

Usage that waits for the control plane is summed up when it takes half of its bound; at the bound the workers are told
to take no more, and refuse requests once their slots are full. The access log is rotated, with one older file kept.
Everything here may be interrupted by a kill.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import access_log_path
from appliance.gateway.plane.rollup import finish, roll_up
from appliance.gateway.plane.schemas.listeners import NodeSettings
from appliance.gateway.plane.slots import SLOTS
from appliance.gateway.plane.spool import FULL

PERIOD_S: Final = 2.0
_ROLL_UP_FROM: Final = 0.5
_OPEN_AGAIN_BELOW: Final = 0.9


class Upkeep:
    """`settings` may be replaced at any time."""

    def __init__(self, home: Path, log: Log) -> None:
        self.settings = NodeSettings()
        self._spool = home / "gateway" / "spool"
        self._access_log = access_log_path(home)
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._failed = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more. What is under way may be cut off by the process's end."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                self.step()
                self._failed = ""
            except OSError as error:
                if str(error) != self._failed:
                    self._log.error("upkeep.failed", reason=str(error))
                self._failed = str(error)

    def step(self) -> None:
        self._bound_spool(self.settings.spool_bytes)
        self._rotate(self.settings.access_log_bytes)

    def _bound_spool(self, bound: int) -> None:
        directories = sorted(self._spool.glob("worker-*"))
        for directory in directories:
            if any(directory.glob("*.rolling")) or any(directory.glob("*.rolled")):
                finish(directory)
        sizes = {directory: waiting_bytes(directory) for directory in directories}
        while sizes and sum(sizes.values()) > _ROLL_UP_FROM * bound and not self._stop.is_set():
            largest = max(sizes, key=lambda directory: sizes[directory])
            before = sizes[largest]
            if before and roll_up(largest):
                sizes[largest] = waiting_bytes(largest)
                self._log.warning("spool.rolled_up", directory=largest.name, before=before, after=sizes[largest])
            else:
                del sizes[largest]
        self._tell(sum(map(waiting_bytes, directories)), bound)

    def _tell(self, waiting: int, bound: int) -> None:
        mark = self._spool / FULL
        if waiting >= bound and not mark.exists():
            mark.touch(mode=0o644)
            self._log.error("spool.full", waiting=waiting, bound=bound)
        elif waiting < _OPEN_AGAIN_BELOW * bound and mark.exists():
            mark.unlink()
            self._log.info("spool.open_again", waiting=waiting, bound=bound)

    def _rotate(self, most: int) -> None:
        try:
            if self._access_log.stat().st_size > most:
                self._access_log.rename(self._access_log.with_suffix(".log.1"))
        except FileNotFoundError:
            return


def waiting_bytes(directory: Path) -> int:
    """Of usage in a worker's directory; its slots and reserve take the same room always and do not count."""
    total = 0
    for path in directory.iterdir():
        if path.name not in _NOT_WAITING:
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # ingested in this moment
                continue
    return total


_NOT_WAITING: Final = frozenset({SLOTS, "reserve"})
