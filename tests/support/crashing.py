"""Killing the control plane at every point of a service's life, and watching it converge.

The points are discovered: one life is run with a trace, and each point that it reached, as often as it reached it,
is a place to die. Meanwhile a client asks a service that was there before; it must not notice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.checker.run import check
from tests.support.appliance import Appliance, Tenant, done
from tests.support.waiting import eventually

CONVERGES_S: Final = 30.0
"""From the restart, besides the engine's own loading, which the light engine hardly has."""
_OFTEN: Final = 3
"""Of a point that is reached many times in one life, so many are tried."""
_REPEATING: Final = ("@inventory", "@usage-ingest", "@activity", "@audit-seal", "@gateway-process", "@model-store")
"""Points of reconcilers that have nothing to do with a service's life; each is tried once."""


class Died(Exception):
    """The control plane died on the way, as it was meant to."""


class Life:
    """One service from its creation to its end; `continue_` may be called again after a death."""

    def __init__(self, appliance: Appliance, tenant: Tenant, name: str) -> None:
        self._appliance, self._tenant, self.name = appliance, tenant, name
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


def discover(appliance: Appliance, tenant: Tenant, trace: Path) -> list[str]:
    """Run one life with a trace; every point with each of its occurrences, `point#n`."""
    trace.unlink(missing_ok=True)
    appliance.kill()
    appliance.start(APPLIANCE_CRASH_TRACE=str(trace))
    Life(appliance, tenant, "traced").continue_()
    counts = Counter(trace.read_text().split("\n"))
    counts.pop("", None)
    return [
        f"{point}#{number}"
        for point, count in sorted(counts.items())
        for number in range(1, min(count, 1 if point.endswith(_REPEATING) else _OFTEN) + 1)
    ]


def die_at(appliance: Appliance, tenant: Tenant, points: Sequence[str], name: str) -> bool:
    """Live one life, killed at the first point and, after its restart, at the next; whether all were reached.

    Raises `AssertionError` unless the life ends well and every invariant holds after it.
    """
    life = Life(appliance, tenant, name)
    reached = 0
    appliance.kill()
    for point in points:
        appliance.spawn(APPLIANCE_CRASH_AT=point)
        reached += _lives_until_death(appliance, life)
    if reached:
        appliance.start()
        life.continue_()
    violations = check(appliance.home, database_url=appliance.environ.get("APPLIANCE_DATABASE_URL"))
    assert not violations, f"after {points}: {violations}"
    return reached == len(points)


def _lives_until_death(appliance: Appliance, life: Life) -> bool:
    """Whether the control plane died; if not, the life went to its end."""
    try:
        appliance.until_ready_or_dead()
        life.continue_()
    except Died:
        assert appliance.wait_for_death(5), "the control plane does not answer and is not dead"
    return appliance.wait_for_death(0)


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
