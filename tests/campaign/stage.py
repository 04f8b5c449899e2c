"""What a campaign runs on: the combinations that this machine has, and appliances that are replaced when they fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tests.campaign.outcome import Outcome
from tests.support import crashing, docker, light, postgres
from tests.support.appliance import Appliance, Tenant, running
from tests.support.crashing import Crasher

MOST_FAILURES: Final = 5
"""A part that fails this often has shown enough."""

T = TypeVar("T")


class Stage:
    """The servers of a campaign. `combinations` are names such as `docker+postgres`."""

    def __init__(self, stack: ExitStack) -> None:
        self._docker = os.environ.get(docker.VARIABLE, "")
        self._postgres = os.environ.get(postgres.VARIABLE, "")
        if not self._postgres:
            self._postgres = stack.enter_context(postgres.own_server()).url
        if self._docker:
            light.build_light_image(self._docker)

    @property
    def combinations(self) -> list[str]:
        launchers = ["process", "docker"] if self._docker else ["process"]
        return [f"{launcher}+{database}" for launcher in launchers for database in ("sqlite", "postgres")]

    @contextmanager
    def environ(self, combination: str) -> Iterator[Mapping[str, str]]:
        """The environment of an appliance on an empty database."""
        launcher, _, database = combination.partition("+")
        environ = {}
        if launcher == "docker":
            environ = {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": self._docker}
        with ExitStack() as stack:
            if database == "postgres":
                environ["APPLIANCE_DATABASE_URL"] = stack.enter_context(postgres.database(self._postgres))
            yield environ

    @contextmanager
    def crasher(self, combination: str) -> Iterator[tuple[Appliance, Crasher]]:
        """An appliance under traffic that must not notice; `AssertionError` at the end if it did."""
        with self.environ(combination) as environ, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with running(**Crasher.environ(folder), **environ) as appliance:
                tenant = Tenant.create(appliance)
                tenant.publish("steady")
                url = tenant.until("steady", "ready", 60)["url"]
                with crashing.steady_traffic(url, tenant.known_key(url), "steady") as failures:
                    yield appliance, Crasher(appliance, tenant, folder)
                assert not failures, f"{len(failures)} requests failed, the first: {failures[0]}"


def each(
    outcome: Outcome, items: Iterable[T], stage: Callable[[], Iterator[Callable[[T], bool]]], name: Callable[[T], str]
) -> None:
    """Try the items one after the other on a stage, which is set up anew after each failure."""
    waiting = list(items)
    while waiting and len(outcome.failures) < MOST_FAILURES:
        item = waiting[0]
        try:
            with contextmanager(stage)() as attempt:
                while waiting:
                    item = waiting.pop(0)
                    outcome.tried += 1
                    if not attempt(item):
                        outcome.unmet.append(name(item))
        except (AssertionError, OSError) as error:
            outcome.failures.append(f"`{name(item)}`: {' '.join(str(error).split())[:600]}")
