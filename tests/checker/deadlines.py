"""I13: nothing stays in a transitional state past its deadline."""

from collections.abc import Iterator
from datetime import timedelta

from tests.checker.database import instant
from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_TRANSITIONAL = {"placed", "starting", "joining", "draining", "stopping"}
GRACE = timedelta(seconds=30)
"""What the control plane has to converge after its own restart."""


def within_database(evidence: Evidence) -> Iterator[Violation]:
    for row in evidence.rows("replicas"):
        if row["state"] not in _TRANSITIONAL:
            continue
        deadline = instant(row["deadline_at"])
        if deadline is None:
            yield Violation("I13", row["id"], f"is {row['state']} without a deadline")
        elif deadline + GRACE < evidence.at:
            yield Violation("I13", row["id"], f"is {row['state']}, its deadline was {deadline:%Y-%m-%d %H:%M:%S}Z")
