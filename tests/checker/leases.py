"""I1: no device is leased beyond its whole, and the devices of what runs are those that it leased."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.checker.evidence import LIVE, REPLICA_LABEL, Evidence
from tests.checker.violations import Violation

_NVIDIA = "NVIDIA_VISIBLE_DEVICES"
_ILUVATAR = "IX_VISIBLE_DEVICES"
_NONE = {"", "none", "void"}
_WHOLE = 100


def within_database(evidence: Evidence) -> Iterator[Violation]:
    replicas = evidence.replicas
    devices = {row["id"]: row for row in evidence.rows("devices")}
    leases = evidence.rows("device_leases")
    shares: Counter[str] = Counter()
    for lease in leases:
        shares[lease["device_id"]] += lease["share"]
    for device, share in shares.items():
        if share > _WHOLE:
            yield Violation("I1", device, f"{share} % are leased")
    for device, row in devices.items():
        if row["leased"] != shares[device]:
            yield Violation(
                "I1", device, f"counts {row['leased']} % as leased, its leases add up to {shares[device]} %"
            )
    for lease in leases:
        holder = replicas.get(lease["replica_id"])
        if lease["device_id"] not in devices:
            yield Violation("I1", lease["device_id"], "is leased and does not exist")
        if holder is None or holder["state"] not in LIVE:
            state = "does not exist" if holder is None else f"is {holder['state']}"
            yield Violation("I1", lease["device_id"], f"is leased by {lease['replica_id']}, which {state}")
    yield from _numbers(evidence)
    yield from _memory(evidence)


def _numbers(evidence: Evidence) -> Iterator[Violation]:
    """A replica that is placed holds as many devices as its deployment asks for."""
    wanted = {row["id"]: row["devices"] for row in evidence.rows("deployments")}
    held = Counter(row["replica_id"] for row in evidence.rows("device_leases"))
    for row in evidence.rows("replicas"):
        if row["state"] in LIVE and held[row["id"]] != wanted[row["deployment_id"]]:
            problem = f"holds {held[row['id']]} devices, its deployment asks for {wanted[row['deployment_id']]}"
            yield Violation("I1", row["id"], problem)


def _memory(evidence: Evidence) -> Iterator[Violation]:
    """The claims on a node are those of live replicas, and their sum is what the node counts."""
    replicas = evidence.replicas
    claimed: defaultdict[str, int] = defaultdict(int)
    for claim in evidence.rows("node_claims"):
        claimed[claim["node_id"]] += claim["memory_bytes"]
        holder = replicas.get(claim["replica_id"])
        if holder is None or holder["state"] not in LIVE:
            yield Violation("I1", claim["node_id"], f"memory is claimed by {claim['replica_id']}, which is gone")
    for node in evidence.rows("nodes"):
        if node["memory_claimed"] != claimed[node["id"]]:
            problem = f"counts {node['memory_claimed']} bytes as claimed, its claims add up to {claimed[node['id']]}"
            yield Violation("I1", node["id"], problem)


def across(evidence: Evidence) -> Iterator[Violation]:
    leased = _leased_devices(evidence)
    for container in evidence.our_containers.values():
        if container.running:
            replica = container.labels.get(REPLICA_LABEL, "")
            given = _of_container(container.inspected) | _of_environ(container.environ)
            yield from _compare(f"container {container.name}", given, leased.get(replica, {}))
    for replica, process in evidence.replica_processes.values():
        given = _of_environ(process.environ)
        if given:
            yield from _compare(f"process {process.pid} of {replica}", given, leased.get(replica, {}))


def _leased_devices(evidence: Evidence) -> Mapping[str, Mapping[str, str]]:
    """By replica: each leased device under all the names that it may be given by."""
    devices = {row["id"]: row for row in evidence.rows("devices")}
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for lease in evidence.rows("device_leases"):
        device = devices.get(lease["device_id"])
        if device is not None:
            for name in (device["uuid"], f"{device['vendor']}:{device['index']}"):
                found[lease["replica_id"]][name] = device["id"]
    return found


def _compare(subject: str, given: set[str], leased: Mapping[str, str]) -> Iterator[Violation]:
    for name in sorted(given - set(leased)):
        yield Violation("I1", subject, f"was given {name} without a lease")
    for device in sorted(set(leased.values()) - {leased[name] for name in given & set(leased)}):
        yield Violation("I1", subject, f"holds a lease of {device} and was not given it")


def _of_environ(environ: Mapping[str, str]) -> set[str]:
    nvidia = {part for part in environ.get(_NVIDIA, "").split(",") if part not in _NONE}
    iluvatar = {f"iluvatar:{part}" for part in environ.get(_ILUVATAR, "").split(",") if part not in _NONE}
    return {f"nvidia:{name}" if name.isdecimal() else name for name in nvidia} | iluvatar


def _of_container(inspected: Mapping[str, Any]) -> set[str]:
    """What Docker itself was asked to pass on: device requests, and CDI names such as nvidia.com/gpu=UUID."""
    requests = inspected["HostConfig"].get("DeviceRequests") or []
    names = {name for request in requests for name in request.get("DeviceIDs") or []}
    return {name.rpartition("=")[2] for name in names}
