"""Runs the checks. What is read at two moments is believed only when a second look shows the same."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.checker import audit, counters, deadlines, grants, leases, listening, ownership, reservations, secrecy
from tests.checker.evidence import Evidence, gather
from tests.checker.violations import Violation

Check = Callable[[Evidence], Iterable[Violation]]

WITHIN_DATABASE: Final[tuple[Check, ...]] = (
    leases.within_database,
    reservations.within_database,
    listening.within_database,
    counters.within_database,
    audit.within_database,
    deadlines.within_database,
    secrecy.anywhere,
)
"""One transaction shows the database as it was at one moment: one look is enough."""

ACROSS: Final[tuple[Check, ...]] = (
    leases.across,
    listening.across,
    ownership.across,
    grants.lasting,
    reservations.lasting,
)
"""The database and the machine are read one after the other, and each may be ahead of the other for a moment."""

SETTLE_S: Final = 3.0
"""Longer than a step of a reconciler between its commit and its effect; engines' loading is not awaited."""
_LOOKS: Final = 4


def observe(evidence: Evidence, checks: Iterable[Check] = (*WITHIN_DATABASE, *ACROSS)) -> list[Violation]:
    """The violations in one look."""
    return sorted({violation for check in checks for violation in check(evidence)})


def check(
    home: Path,
    *,
    database_url: str | None = None,
    docker_host: str | None = None,
    secrets: Mapping[str, bytes] | None = None,
    foreign: frozenset[str] = frozenset(),
    settle_s: float = SETTLE_S,
) -> list[Violation]:
    """The violations, none when all is well.

    What the database alone shows counts at once; a difference between the database and the machine counts when
    every look of the next `settle_s` seconds shows it. `secrets` (name to value) are searched for besides those
    that are found below `home`; `foreign` are containers of others, which must still be there.
    """

    def look() -> Evidence:
        return gather(home, database_url=database_url, docker_host=docker_host, secrets=secrets, foreign=foreign)

    evidence = look()
    certain = observe(evidence, WITHIN_DATABASE)
    standing = set(observe(evidence, ACROSS))
    for _ in range(_LOOKS):
        if not standing:
            break
        time.sleep(settle_s / _LOOKS)
        standing &= set(observe(look(), ACROSS))
    return sorted({*certain, *standing})
