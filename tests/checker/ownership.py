"""I6: what runs under our label has an owner, what has an owner runs once, and the rest is nobody's business."""

from collections import defaultdict
from collections.abc import Iterator

from tests.checker.evidence import APPLIANCE_LABEL, LIVE, REPLICA_LABEL, Evidence
from tests.checker.violations import Violation

_HAS_ENGINE = {"joining", "ready", "draining"}
"""States in which an engine must exist; in the others of LIVE one may."""


def across(evidence: Evidence) -> Iterator[Violation]:
    yield from _orphans(evidence)
    yield from _missing(evidence)
    yield from _foreign(evidence)


def _orphans(evidence: Evidence) -> Iterator[Violation]:
    for container in evidence.our_containers.values():
        replica = container.labels.get(REPLICA_LABEL, "")
        yield from _owned(evidence, f"container {container.name}", replica, running=container.running)
    for replica, process in evidence.replica_processes.values():
        yield from _owned(evidence, f"process {process.pid} ({process.command_line:.60})", replica, running=True)
    running: defaultdict[str, list[str]] = defaultdict(list)
    for container in evidence.our_containers.values():
        if container.running:
            running[container.labels.get(REPLICA_LABEL, "")].append(container.name)
    for replica, names in running.items():
        if len(names) > 1:
            yield Violation("I6", replica, f"runs in {len(names)} containers: {', '.join(sorted(names))}")


def _owned(evidence: Evidence, subject: str, replica: str, *, running: bool) -> Iterator[Violation]:
    row = evidence.replicas.get(replica)
    if row is None:
        yield Violation("I6", subject, f"belongs to replica {replica or '(no label)'}, which does not exist")
    elif running and row["state"] not in LIVE:
        yield Violation("I6", subject, f"runs while replica {replica} is {row['state']}")


def _missing(evidence: Evidence) -> Iterator[Violation]:
    """A replica that serves has an engine, by either launcher."""
    there = {replica for replica, _ in evidence.replica_processes.values()}
    there |= {c.labels.get(REPLICA_LABEL, "") for c in evidence.our_containers.values() if c.running}
    for replica, row in evidence.replicas.items():
        if row["state"] in _HAS_ENGINE and replica not in there:
            yield Violation("I6", replica, f"is {row['state']} and has no engine")


def _foreign(evidence: Evidence) -> Iterator[Violation]:
    running = {container.id for container in evidence.containers or () if container.running}
    for identifier in sorted(evidence.foreign - running):
        yield Violation("I6", f"container {identifier[:12]}", f"had no label {APPLIANCE_LABEL} and no longer runs")
