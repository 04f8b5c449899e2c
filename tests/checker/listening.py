"""I2: no port is given twice, and what listens, what is published and what the database says are the same."""

from collections import Counter
from collections.abc import Iterator, Mapping

from tests.checker.evidence import Evidence
from tests.checker.violations import Violation

_EPHEMERAL = range(32768, 61000)
_MOST_PORTS = 16


def within_database(evidence: Evidence) -> Iterator[Violation]:
    listeners = evidence.rows("listeners")
    gateways = {row["id"]: row for row in evidence.rows("gateways")}
    services = {row["id"]: row for row in evidence.rows("services")}
    for (node, port), count in Counter((row["node"], row["port"]) for row in listeners).items():
        if count > 1:
            yield Violation("I2", f"port {port} of {node}", f"{count} listeners")
        if port in _EPHEMERAL:
            yield Violation("I2", f"port {port} of {node}", "is one of those used by outgoing connections")
    for gateway, count in Counter(row["gateway_id"] for row in listeners).items():
        if count > _MOST_PORTS:
            yield Violation("I2", gateway, f"{count} listeners; {_MOST_PORTS} is the most")
    for row in listeners:
        gateway = gateways.get(row["gateway_id"])
        if gateway is None:
            yield Violation("I2", row["id"], f"belongs to gateway {row['gateway_id']}, which does not exist")
        elif not 0 <= row["port"] - gateway["first_port"] < gateway["port_count"]:
            yield Violation("I2", row["id"], f"port {row['port']} is not one of gateway {gateway['name']}")
        service = row["service_id"]
        if service is not None and service not in services:
            yield Violation("I2", row["id"], f"belongs to service {service}, which does not exist")


def across(evidence: Evidence) -> Iterator[Violation]:
    published = _published(evidence)
    if published is None:
        return
    wanted = {row["id"]: row["port"] for row in evidence.rows("listeners")}
    for listener in sorted(set(wanted) | set(published)):
        if wanted.get(listener) != published.get(listener):
            problem = f"is port {wanted.get(listener)} in the database, {published.get(listener)} in the snapshot"
            yield Violation("I2", listener, problem)
    yield from _sockets(evidence, published)


def _published(evidence: Evidence) -> Mapping[str, int] | None:
    shard = evidence.shard("listeners")
    return None if shard is None else {entry["id"]: entry["port"] for entry in shard["listeners"]}


def _sockets(evidence: Evidence, published: Mapping[str, int]) -> Iterator[Violation]:
    """The supervisor owns every socket; a foreign process has none of our ports."""
    supervisor = evidence.pid("supervisor")
    if supervisor is None:
        return
    ours = {supervisor, *(process.pid for process in evidence.processes.descendants(supervisor))}
    held = {socket.port for socket in evidence.sockets if socket.pids & ours}
    for port in sorted(set(published.values()) - held):
        strangers = sorted(pid for socket in evidence.sockets if socket.port == port for pid in socket.pids)
        by = f"process {strangers[0]}" if strangers else "nobody"
        yield Violation("I2", f"port {port}", f"is published and held by {by}")
    for port in sorted(held - set(published.values())):
        yield Violation("I2", f"port {port}", "is open in the gateway and not published")
