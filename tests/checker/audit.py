"""I9: the hash chain over the audit rows verifies, and no sealed row was added, changed or taken out."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from tests.checker.database import Row, instant
from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_SEALED_WITHIN = timedelta(seconds=60)
"""The follower's tick and a restart of the control plane."""


def within_database(evidence: Evidence) -> Iterator[Violation]:
    rows = evidence.rows("audit_events")
    sealed = sorted((row for row in rows if row["sequence"] is not None), key=lambda row: int(row["sequence"]))
    yield from _chain(sealed)
    for row in rows:
        at = instant(row["at"])
        if row["sequence"] is None and at is not None and at + _SEALED_WITHIN < evidence.at:
            yield Violation("I9", row["id"], "was never sealed")


def _chain(sealed: Sequence[Row]) -> Iterator[Violation]:
    previous = sealed[0]["previous_hash"] if sealed else ""
    for position, row in enumerate(sealed, start=sealed[0]["sequence"] if sealed else 1):
        if row["sequence"] != position:
            yield Violation("I9", row["id"], f"has number {row['sequence']} where {position} is missing")
            return
        if row["previous_hash"] != previous:
            yield Violation("I9", row["id"], "does not continue the chain of the row before it")
            return
        previous = row["hash"]
