"""I3: each counter equals the rows it counts and is within its limit."""

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
    """What exists, by scope and resource, for each tenant and for the platform."""
    found: Counter[tuple[str, str]] = Counter()

    def count(tenant: str | None, resource: str, amount: int = 1) -> None:
        if tenant is not None:
            found[tenant, resource] += amount
            found[_PLATFORM, resource] += amount

    for service in evidence.rows("services"):
        count(service["tenant_id"], "services")
    for deployment in evidence.rows("deployments"):
        count(deployment["tenant_id"], "replicas", deployment["replicas"])
        count(deployment["tenant_id"], "devices", deployment["replicas"] * deployment["devices"])
    for key in evidence.rows("api_keys"):
        if key["revoked_at"] is None:
            count(key["tenant_id"], "keys")
    return found
