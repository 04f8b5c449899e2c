"""The thread that owns the scheduler, and what the event loop sees of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .metrics import Metrics
from .scheduler import Result, Scheduler
from .sequence import Delta, Sequence

logger = logging.getLogger(__name__)
PrefillT = TypeVar("PrefillT")


class Engine(Generic[PrefillT]):
    """Runs steps while there is work and sleeps otherwise.

    Results are handed to `Sequence.sink` on the event loop, all of one step in one call. When a step raises, every
    unfinished sequence gets an error, `on_death` is called on the event loop, and the engine stays dead: a device
    that failed once is not to be trusted, a restart is cheap.
    """

    def __init__(self, scheduler: Scheduler[PrefillT], metrics: Metrics, *, on_death: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._inbox: list[Sequence] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, sequence: Sequence) -> None:
        with self._wake:
            self._inbox.append(sequence)
            self._wake.notify()

    def stop(self, timeout: float) -> bool:
        """End the thread after its current step; False if that did not happen within `timeout` seconds."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._take_new():
                results = self._scheduler.step()
                self._observe(results)
                self._deliver(results)
        except Exception:
            logger.exception("generation failed; the engine is dead")
            self._fail()

    def _take_new(self) -> bool:
        """Wait for work and move what arrived to the scheduler; False when stopping."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._inbox or self._scheduler.busy)
            for sequence in self._inbox:
                self._scheduler.add(sequence)
            self._inbox.clear()
            return not self._stopping

    def _observe(self, results: list[Result]) -> None:
        for sequence, delta in results:
            self._metrics.observe(sequence, delta)
        self._metrics.set_load(running=self._scheduler.running, waiting=self._scheduler.waiting)

    def _deliver(self, results: list[Result]) -> None:
        if results:
            self._loop.call_soon_threadsafe(_hand_over, results)

    def _fail(self) -> None:
        with self._wake:
            unfinished = [*self._scheduler.sequences(), *self._inbox]
        message = "the engine failed while it generated; it is being restarted"
        self._deliver([(s, Delta("", len(s.output), error=message)) for s in unfinished])
        self._loop.call_soon_threadsafe(self._on_death)


def _hand_over(results: list[Result]) -> None:
    for sequence, delta in results:
        sequence.sink(delta)
