"""I3: each counter equals the rows it counts and is within its limit.

A service counts from its creation until its row is gone, its replicas and devices only while it is meant to run, a
key until it is revoked. The platform counts services.
"""

from collections import Counter
from collections.abc import Iterator

from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_PLATFORM = "platform"


def within_database(evidence: Evidence) -> Iterator[Violation]:
    counted = _counted(evidence)
    for row in evidence.rows("quotas"):
        scope, resource, used, limit = row["scope"], row["resource"], row["used"], row["quota_limit"]
        subject = f"quota of {resource} of {scope}"
        if used > limit:
            yield Violation("I3", subject, f"{used} used of {limit}")
        if used != counted[scope, resource]:
            yield Violation("I3", subject, f"{used} counted, {counted[scope, resource]} exist")


def _counted(evidence: Evidence) -> Counter[tuple[str, str]]:
    """What exists, by scope and resource."""
    found: Counter[tuple[str, str]] = Counter()
    services = {row["id"]: row for row in evidence.rows("services")}
    for service in services.values():
        found[service["tenant_id"], "services"] += 1
        found[_PLATFORM, "services"] += 1
    for deployment in evidence.rows("deployments"):
        if services[deployment["service_id"]]["desired"] == "running":
            found[deployment["tenant_id"], "replicas"] += deployment["replicas"]
            found[deployment["tenant_id"], "devices"] += deployment["replicas"] * deployment["devices"]
    for key in evidence.rows("api_keys"):
        if key["tenant_id"] is not None and key["revoked_at"] is None:
            found[key["tenant_id"], "keys"] += 1
    return found
