"""Background reconcilers: activated by a signal and by a tick, one idempotent code path, a status that is shown.

A reconciler takes no input: what it must do it reads from the world. Signals that arrive while it works are
merged into one more round, so that no signal is lost and none is queued. A round that fails is logged once and
tried again at the next tick or signal; one that finds the control lease lost is the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from appliance.kernel.clock import Clock
from appliance.kernel.errors import LeaseLost
from appliance.kernel.logging import get_logger

log = get_logger(__name__)


class Reconciler(Protocol):
    """What `Activated` drives; `reconcile` returns a status that msgspec can encode."""

    name: str
    period_s: float

    async def reconcile(self) -> Any: ...


class ActivationStatus(msgspec.Struct, frozen=True):
    name: str
    rounds: int
    failures: int
    last_started_at: datetime | None
    last_duration_s: float | None
    last_error: str | None
    last_result: Any


class Activated:
    """Drives one reconciler; `activate` asks for a round soon, `run` is its task."""

    def __init__(self, reconciler: Reconciler, clock: Clock, overtaken: asyncio.Event | None = None) -> None:
        self._reconciler = reconciler
        self._clock = clock
        self._overtaken = overtaken or asyncio.Event()
        self._signal = asyncio.Event()
        self._rounds = self._failures = 0
        self._started_at: datetime | None = None
        self._duration_s: float | None = None
        self._error: str | None = None
        self._result: Any = None

    @property
    def name(self) -> str:
        return self._reconciler.name

    def activate(self) -> None:
        self._signal.set()

    def status(self) -> ActivationStatus:
        return ActivationStatus(
            self.name,
            self._rounds,
            self._failures,
            self._started_at,
            self._duration_s,
            self._error,
            self._result,
        )

    async def run(self) -> None:
        while not self._overtaken.is_set():
            self._signal.clear()
            await self._round()
            await self._signal.wait()

    async def _round(self) -> None:
        self._started_at, begun = self._clock.now(), self._clock.monotonic()
        self._rounds += 1
        try:
            self._result = await self._reconciler.reconcile()
            self._error = None
        except LeaseLost as error:
            self._error = error.detail
            self._overtaken.set()
        except Exception as error:  # the boundary of a background task: logged here, tried again
            self._failures += 1
            self._error = f"{type(error).__name__}: {error}"
            log.exception("reconciler.failed", reconciler=self.name)
        self._duration_s = self._clock.monotonic() - begun


class Activations:
    """All reconcilers of the process, by name. `overtaken` is set once the control lease is lost."""

    def __init__(self, reconcilers: Iterable[Reconciler], clock: Clock) -> None:
        self.overtaken = asyncio.Event()
        self._by_name = {reconciler.name: Activated(reconciler, clock, self.overtaken) for reconciler in reconcilers}
        self.periods = {reconciler.name: reconciler.period_s for reconciler in reconcilers}

    def activate(self, names: Iterable[str]) -> None:
        for name in names:
            self._by_name[name].activate()

    def statuses(self) -> list[ActivationStatus]:
        return [activated.status() for activated in self._by_name.values()]

    def runners(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {name: activated.run for name, activated in self._by_name.items()}
