"""I3: each counter equals the rows it counts and is within its limit.

A service counts from its creation until its row is gone, its replicas and what they take only while it is meant to run,
a key until it is revoked, a version of a tenant's model its files, or while it is uploaded what was announced. The
platform counts services.
"""

from collections import Counter
from collections.abc import Iterator

from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_PLATFORM = "platform"
_LEAST = 4096
"""Bytes that a file of a model counts at least."""


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
            tenant, replicas = deployment["tenant_id"], deployment["replicas"]
            found[tenant, "replicas"] += replicas
            found[tenant, "devices"] += replicas * deployment["devices"]
            found[tenant, "device_memory_bytes"] += replicas * deployment["devices"] * deployment["device_memory_bytes"]
            found[tenant, "cpu_millis"] += replicas * deployment["cpu_millis"]
            found[tenant, "memory_bytes"] += replicas * deployment["memory_bytes"]
    for tenant, size in _stored(evidence):
        found[tenant, "storage_bytes"] += size
    for key in evidence.rows("api_keys"):
        if key["tenant_id"] is not None and key["revoked_at"] is None:
            found[key["tenant_id"], "keys"] += 1
    return found


def _stored(evidence: Evidence) -> Iterator[tuple[str, int]]:
    tenants = {row["id"]: row["tenant_id"] for row in evidence.rows("models")}
    uploads = {row["id"]: row["version_id"] for row in evidence.rows("model_uploads")}
    announced: Counter[str] = Counter()
    for file in evidence.rows("model_upload_files"):
        announced[uploads[file["upload_id"]]] += max(file["size"], _LEAST)
    files: Counter[str] = Counter()
    for file in evidence.rows("model_files"):
        files[file["version_id"]] += max(file["size"], _LEAST)
    orders = {row["version_id"]: row for row in evidence.rows("model_imports")}
    versions = {row["id"]: row for row in evidence.rows("model_versions")}
    for version in versions.values():
        if (tenant := tenants[version["model_id"]]) is None:
            continue
        order = orders.get(version["id"])
        if order is not None and order["source"] == "version":
            yield tenant, files[order["location"]] or version["counted_bytes"]
        elif order is not None and order["source"] in ("archive", "directory"):
            yield tenant, version["counted_bytes"]  # what it is about to write, which only the import knows
        elif version["state"] == "importing":
            yield tenant, announced[version["id"]]
        elif version["state"] == "normal":
            yield tenant, files[version["id"]]
