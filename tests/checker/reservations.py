"""No two reservations of a device overlap, and what is reserved for one tenant is held by no other.

A window may begin while others run there; they leave within a round of the reconciler, so that is looked at more than
once.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise

from tests.checker.database import Row, instant
from tests.checker.evidence import LIVE, Evidence
from tests.checker.violations import Violation

_LEAVING = {"draining", "stopping"}


def within_database(evidence: Evidence) -> Iterator[Violation]:
    for device, rows in _by_device(evidence).items():
        for first, second in pairwise(sorted(rows, key=_begin)):
            if _begin(second) < _end(first):
                yield Violation("reservations", device, f"{first['id']} and {second['id']} overlap")


def lasting(evidence: Evidence) -> Iterator[Violation]:
    kept = {
        device: row
        for device, rows in _by_device(evidence).items()
        for row in rows
        if row["replica_id"] is None and _begin(row) <= evidence.at < _end(row)
    }
    tenants = {row["id"]: row["tenant_id"] for row in evidence.rows("deployments")}
    for lease in evidence.rows("device_leases"):
        replica = evidence.replicas.get(lease["replica_id"])
        row = kept.get(lease["device_id"])
        if row is None or replica is None or replica["state"] not in LIVE or replica["state"] in _LEAVING:
            continue
        if tenants[replica["deployment_id"]] != row["tenant_id"]:
            problem = f"is held by {replica['id']}, and reserved for {row['tenant_id']} by {row['id']}"
            yield Violation("reservations", lease["device_id"], problem)


def _by_device(evidence: Evidence) -> Mapping[str, list[Row]]:
    rows = {row["id"]: row for row in evidence.rows("reservations")}
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for link in evidence.rows("device_reservations"):
        found[link["device_id"]].append(rows[link["reservation_id"]])
    return found


def _begin(row: Row) -> datetime:
    return _instant(row["starts_at"])


def _end(row: Row) -> datetime:
    return _instant(row["ends_at"])


def _instant(column: object) -> datetime:
    found = instant(column)
    assert found is not None
    return found
