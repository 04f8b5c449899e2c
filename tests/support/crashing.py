"""Killing the control plane at every point of a start and of a service's life, and watching it converge.

The points are discovered: one start and one life are run with a trace, and each point that was reached, as often as
it was reached, is a place to die. Meanwhile a client asks a service that was there before; it must not notice.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.appliance import Appliance, Tenant, done
from tests.support.waiting import eventually

CONVERGES_S: Final = 30.0
"""From the restart, besides the engine's own loading, which the light engine hardly has."""
_OFTEN: Final = 3
"""Of a point that is reached many times in one life, so many are tried."""
_DEATHS: Final = 5
"""In one life, where all points are tried: few enough to tell which of them a violation comes from."""
_BACKGROUND: Final = (
    "@activity",
    "@audit-seal",
    "@gateway-process",
    "@housekeeping",
    "@inventory",
    "@metering",
    "@model-store",
    "@telemetry",
    "@usage-ingest",
)
"""Reconcilers that have nothing to do with a service's life; each of their points is tried once, at the start if it is
reached there.
"""


class Moment(StrEnum):
    """Since when a point's occurrences are counted."""

    start = "start"
    life = "life"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The `number`-th time (1-based) that `name` is reached since the moment."""

    moment: Moment
    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.moment}:{self.name}#{self.number}"


class Died(Exception):
    """The control plane died on the way, as it was meant to."""


class Life:
    """One service from its creation to its end; `continue_` may be called again after a death."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self._tenant, self.name = tenant, name
        self._steps: Sequence[Callable[[], None]] = (
            self._create,
            self._wait_ready,
            self._scale,
            self._wait_scaled,
            self._delete,
            self._wait_gone,
        )
        self._next = 0

    def continue_(self) -> None:
        """Go on with the step that was cut; raises `Died` when the control plane goes away."""
        while self._next < len(self._steps):
            try:
                self._steps[self._next]()
            except httpx.TransportError as error:
                raise Died from error
            self._next += 1

    def _create(self) -> None:
        body = {"name": self.name, "model": "tiny", "runtime": "light"}
        done(self._tenant.client.post("services", json=body, headers={"Idempotency-Key": self.name}))

    def _wait_ready(self) -> None:
        self._until(lambda shown: shown["state"] == "ready")

    def _scale(self) -> None:
        done(self._tenant.client.patch(f"services/{self.name}", json={"replicas": 2}))

    def _wait_scaled(self) -> None:
        self._until(lambda shown: shown["state"] == "ready" and shown["ready_replicas"] == 2)

    def _delete(self) -> None:
        answer = self._tenant.client.delete(f"services/{self.name}")
        gone = (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT)  # the cut request had its effect
        assert answer.is_success or answer.status_code in gone, answer.text

    def _wait_gone(self) -> None:
        eventually(self._is_gone, CONVERGES_S, message=f"{self.name} is gone")

    def _is_gone(self) -> bool:
        return self._tenant.client.get(f"services/{self.name}").status_code == httpx.codes.NOT_FOUND

    def _until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        eventually(lambda: condition(self._tenant.service(self.name)), CONVERGES_S, message=f"{self.name} converges")


class Crasher:
    """Kills the control plane of an appliance that was started with `environ(folder)`."""

    def __init__(self, appliance: Appliance, tenant: Tenant, folder: Path) -> None:
        self._appliance, self._tenant = appliance, tenant
        self._trace, self._order = _files(folder)
        self._lives = 0

    @staticmethod
    def environ(folder: Path) -> Mapping[str, str]:
        trace, order = _files(folder)
        return {"APPLIANCE_CRASH_TRACE": str(trace), "APPLIANCE_CRASH_FILE": str(order)}

    def discover(self) -> list[Point]:
        """Every point of one start and one life, each with its occurrences, in a fixed order."""
        self._appliance.kill()
        self._trace.unlink(missing_ok=True)
        self._appliance.start()
        found = self._traced(Moment.start)
        self._trace.unlink(missing_ok=True)
        self._life().continue_()
        of_start = {point.name for point in found if point.name.endswith(_BACKGROUND)}
        return sorted([*found, *(point for point in self._traced(Moment.life) if point.name not in of_start)])

    def die_at(self, points: Sequence[Point]) -> bool:
        """Live one life and die at these points, one after the other; whether all were reached.

        The control plane runs before and after. Raises `AssertionError` unless the life ends well and every
        invariant holds after it.
        """
        life = self._life()
        reached = [self._die_once(life, point) for point in points]
        life.continue_()
        self._check(points)
        return all(reached)

    def _check(self, points: Sequence[Point]) -> None:
        violations = self._appliance.violations()
        assert not violations, f"after {', '.join(map(str, points))}: {violations}"

    def die_at_each(self, points: Sequence[Point]) -> list[Point]:
        """Die once at every point, at several of them in each life; those that no life reached.

        Each life is armed with all points that are left and dies at whichever comes first, up to `_DEATHS` times. The
        checks are those of `die_at`.
        """
        unmet: list[Point] = []
        for moment in Moment:
            left = {point for point in points if point.moment is moment}
            while left and (died := self._live_and_die(moment, left)):
                left -= died
            unmet += sorted(left)
        return unmet

    def _live_and_die(self, moment: Moment, points: set[Point]) -> set[Point]:
        life, died, passed = self._life(), list[Point](), Counter[str]()
        while len(died) < _DEATHS and (point := self._die_at_first(life, moment, points - set(died), passed)):
            died.append(point)
            if moment is Moment.life:
                self._appliance.start()
        if self._appliance.wait_for_death(0):
            self._appliance.start()
        life.continue_()
        self._check(died)
        return set(died)

    def _die_at_first(self, life: Life, moment: Moment, points: set[Point], passed: Counter[str]) -> Point | None:
        """Die at the first of `points` that is reached and stay dead; `passed` counts what the life went by."""
        if moment is Moment.start:
            passed.clear()
            self._appliance.kill()
        ahead = [point for point in points if point.number > passed[point.name]]
        self._trace.unlink(missing_ok=True)
        self._order.write_text("\n".join(f"{point.name}#{point.number - passed[point.name]}" for point in ahead))
        if not self._dies(life, moment):
            return None
        trace = self._trace.read_text().split()
        passed.update(trace)
        reached = [point for point in ahead if point.name == trace[-1]]
        assert reached, f"the control plane died at {trace[-1]}, where it was not told to:\n{self._appliance.output()}"
        return min(reached, key=lambda point: point.number)

    def _die_once(self, life: Life, point: Point) -> bool:
        if point.moment is Moment.start:
            self._appliance.kill()
        self._order.write_text(f"{point.name}#{point.number}")
        if died := self._dies(life, point.moment):
            self._appliance.start()
        return died

    def _dies(self, life: Life, moment: Moment) -> bool:
        """Whether the control plane, armed, dies on its way through the life."""
        if moment is Moment.start:
            self._appliance.spawn()
        if self._appliance.until_ready_or_dead():
            try:
                life.continue_()
            except Died:
                assert self._appliance.wait_for_death(5), "the control plane does not answer and is not dead"
        self._order.unlink()
        return self._appliance.wait_for_death(0)

    def _life(self) -> Life:
        self._lives += 1
        return Life(self._tenant, f"life-{self._lives}")

    def _traced(self, moment: Moment) -> list[Point]:
        counts = Counter(self._trace.read_text().split())
        return [
            Point(moment, name, number)
            for name, count in counts.items()
            for number in range(1, min(count, 1 if name.endswith(_BACKGROUND) else _OFTEN) + 1)
        ]


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "crash-trace", folder / "crash-order"


def sample(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """The same ones for the same seed and points."""
    return random.Random(seed).sample(points, min(count, len(points)))


@contextmanager
def steady_traffic(url: str, key: str, model: str) -> Iterator[list[str]]:
    """Ask the service all the time; yields the list of what went wrong, which must stay empty."""
    failures: list[str] = []
    stop = threading.Event()
    served = 0

    def ask() -> None:
        nonlocal served
        body = {"model": model, "messages": [{"role": "user", "content": "still there"}], "max_tokens": 2}
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
            while not stop.wait(0.05):
                try:
                    answer = client.post(f"{url}/chat/completions", json=body)
                except httpx.TransportError as error:
                    failures.append(repr(error))
                    continue
                if answer.status_code != httpx.codes.OK:
                    failures.append(f"{answer.status_code} {answer.text}")
                served += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
    assert served, "nothing was asked"
