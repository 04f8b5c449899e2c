"""I9: the hash chain over the audit rows verifies, and no sealed row was added, changed or taken out.

The form is the documented one: the hash is the SHA-256 of the hash before it (64 zeros for the first row), as 64
characters, followed by the row as JSON in ASCII with sorted members and no white space; numbers count from 1.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from tests.checker.database import Row, document, instant
from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

SEALED_WITHIN: Final = timedelta(seconds=60)
"""The follower's tick and a restart of the control plane."""

_PLAIN: Final = (
    "id",
    "actor_kind",
    "actor_id",
    "actor_name",
    "tenant_id",
    "action",
    "target_kind",
    "target_id",
    "request_id",
    "sequence",
)


def within_database(evidence: Evidence) -> Iterator[Violation]:
    rows = evidence.rows("audit_events")
    yield from _chain(sorted((row for row in rows if row["sequence"] is not None), key=_sequence))
    for row in rows:
        at = instant(row["at"])
        if row["sequence"] is None and at is not None and at + SEALED_WITHIN < evidence.at:
            yield Violation("I9", row["id"], "was never sealed")


def _chain(sealed: Sequence[Row]) -> Iterator[Violation]:
    """Only the first flaw: every row after it breaks too."""
    previous = "0" * 64
    for position, row in enumerate(sealed, start=1):
        if _sequence(row) != position:
            yield Violation("I9", row["id"], f"has number {row['sequence']} where {position} is missing")
            return
        if row["previous_hash"] != previous:
            yield Violation("I9", row["id"], "does not continue the chain of the row before it")
            return
        if row["hash"] != sealed_hash(previous, row):
            yield Violation("I9", row["id"], "is not what was sealed")
            return
        previous = row["hash"]


def sealed_hash(previous: str, row: Row) -> str:
    at = instant(row["at"])
    members = {name: row[name] for name in _PLAIN}
    members["at"] = None if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"
    members["detail"] = document(row["detail"])
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}{text}".encode("ascii")).hexdigest()


def _sequence(row: Row) -> int:
    return int(row["sequence"])
