"""No grant is passed: what runs in a dedicated pool, or on a class of devices, runs by a grant that has not ended.

A grant may end while replicas run by it; they leave within a round of the reconciler, so this is looked at more than
once.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.checker.database import Row, instant
from tests.checker.evidence import LIVE, Evidence
from tests.checker.violations import Violation

_LEAVING = {"draining", "stopping"}


def lasting(evidence: Evidence) -> Iterator[Violation]:
    pools = {row["id"]: row for row in evidence.rows("pools")}
    deployments = {row["id"]: row for row in evidence.rows("deployments")}
    pools_of, classes_of = _granted(evidence)
    held = _classes(evidence)
    for replica in evidence.rows("replicas"):
        if replica["state"] not in LIVE or replica["state"] in _LEAVING:
            continue
        deployment = deployments[replica["deployment_id"]]
        tenant, pool = deployment["tenant_id"], pools[deployment["pool_id"]]
        if pool["access"] != "public" and pool["id"] not in pools_of[tenant]:
            yield Violation("grants", replica["id"], f"is in pool {pool['name']}, which {tenant} has no grant of")
        if tenant in classes_of:
            for named in sorted(held[replica["id"]] - classes_of[tenant]):
                yield Violation("grants", replica["id"], f"holds a {named}, which {tenant} has no grant of")


def _granted(evidence: Evidence) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """By tenant: the pools and the device classes of grants in force; of classes, also where none is any more."""
    pools: defaultdict[str, set[str]] = defaultdict(set)
    classes: dict[str, set[str]] = {}
    for row in evidence.rows("grants"):
        in_force = _in_force(row, evidence)
        if row["kind"] == "pool" and in_force:
            pools[row["tenant_id"]].add(row["pool_id"])
        if row["kind"] == "device_class":
            classes.setdefault(row["tenant_id"], set()).update({row["device_class"]} if in_force else ())
    return pools, classes


def _in_force(row: Row, evidence: Evidence) -> bool:
    expires_at = instant(row["expires_at"])
    return expires_at is None or expires_at > evidence.at


def _classes(evidence: Evidence) -> Mapping[str, set[str]]:
    """By replica: the classes of the devices that it leases."""
    devices = {row["id"]: row for row in evidence.rows("devices")}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for lease in evidence.rows("device_leases"):
        if (device := devices.get(lease["device_id"])) is not None:
            found[lease["replica_id"]].add(f"{device['vendor']}/{device['model']}")
    return found
