"""The phases that an engine tells in its log: lines `appliance-phase {"phase": ..., ...}`, shown as events."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from appliance.kernel.errors import Unavailable
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase

MARK = "appliance-phase "
_PERIOD_S = 1.0
_TOLD: dict[str, tuple[Phase, str]] = {
    "loading_weights": (Phase.loading_weights, "loading the model's weights"),
    "warming_up": (Phase.warming_up, "warming up"),
}


class PhaseReader:
    """Notes each phase of one replica once; reads the log at most once a second."""

    def __init__(self, machinery: Machinery, service_id: str, replica_id: str) -> None:
        self._machinery, self._service_id, self._replica_id = machinery, service_id, replica_id
        self._noted: set[Phase] = set()
        self._next = machinery.clock.monotonic() + _PERIOD_S

    async def poll(self) -> None:
        if self._machinery.clock.monotonic() < self._next:
            return
        self._next = self._machinery.clock.monotonic() + _PERIOD_S
        try:
            lines = await self._machinery.launcher.logs(self._replica_id, tail=100)
        except Unavailable:
            return  # the phases are told when the launcher answers again
        news = {phase: told for line in lines if (told := parse(line)) and (phase := told[0]) not in self._noted}
        if not news:
            return
        self._noted.update(news)
        async with self._machinery.guarded.write() as session:
            for phase, message, detail in news.values():
                note(
                    session,
                    self._machinery.clock,
                    self._service_id,
                    phase,
                    message,
                    replica_id=self._replica_id,
                    detail=detail,
                )


def parse(line: str) -> tuple[Phase, str, dict[str, Any]] | None:
    """The phase that a log line tells, if it tells one that is shown."""
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None  # the engine's log is not ours; a malformed line is only a line
    if not isinstance(told, dict) or told.get("phase") not in _TOLD:
        return None
    phase, message = _TOLD[told.pop("phase")]
    return (
        phase,
        message,
        {name: value for name, value in told.items() if isinstance(value, int | float) and isfinite(value)},
    )
