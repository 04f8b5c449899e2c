"""Each check names what breaks its invariant, and is silent where nothing does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.checker import counters, deadlines, grants, leases, listening, observe, ownership, reservations, secrecy
from tests.checker.containers import Container
from tests.checker.evidence import Evidence, secrets_of
from tests.support.processes import Listener, Process, ProcessTable

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOME = Path("/srv/appliance")
TABLES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "tenants": [],
    "services": [{"id": "svc_1", "tenant_id": "ten_1", "desired": "running"}],
    "deployments": [
        {
            "id": "dep_1",
            "tenant_id": "ten_1",
            "service_id": "svc_1",
            "pool_id": "pol_1",
            "replicas": 2,
            "devices": 1,
            "device_memory_bytes": 5,
            "cpu_millis": 1500,
            "memory_bytes": 7,
        },
    ],
    "replicas": [{"id": "rpl_1", "deployment_id": "dep_1", "state": "ready", "deadline_at": None}],
    "pools": [{"id": "pol_1", "name": "night", "access": "public"}],
    "grants": [],
    "reservations": [],
    "device_reservations": [],
    "nodes": [{"id": "nod_1", "memory_claimed": 7}],
    "node_claims": [{"node_id": "nod_1", "replica_id": "rpl_1", "memory_bytes": 7}],
    "devices": [{"id": "dev_1", "uuid": "GPU-1", "vendor": "nvidia", "model": "L4", "index": 0, "leased": 100}],
    "device_leases": [{"device_id": "dev_1", "replica_id": "rpl_1", "share": 100}],
    "gateways": [{"id": "gwy_1", "name": "main", "first_port": 9000, "port_count": 16}],
    "listeners": [
        {"id": "lsn_1", "gateway_id": "gwy_1", "node": "here", "port": 9000, "service_id": "svc_1"},
    ],
    "quotas": [
        {"scope": "ten_1", "resource": "services", "used": 1, "quota_limit": 1},
        {"scope": "platform", "resource": "services", "used": 1, "quota_limit": 500},
        {"scope": "ten_1", "resource": "devices", "used": 2, "quota_limit": 8},
        {"scope": "ten_1", "resource": "device_memory_bytes", "used": 10, "quota_limit": 10},
        {"scope": "ten_1", "resource": "cpu_millis", "used": 3000, "quota_limit": 4000},
        {"scope": "ten_1", "resource": "memory_bytes", "used": 14, "quota_limit": 14},
        {"scope": "ten_1", "resource": "storage_bytes", "used": 22288, "quota_limit": 30000},
    ],
    "models": [{"id": "mdl_1", "tenant_id": "ten_1"}, {"id": "mdl_2", "tenant_id": None}],
    "model_versions": [
        {"id": "ver_1", "model_id": "mdl_1", "state": "normal", "total_bytes": 5003, "counted_bytes": 9096},
        {"id": "ver_2", "model_id": "mdl_1", "state": "importing", "total_bytes": 0, "counted_bytes": 4096},
        {"id": "ver_3", "model_id": "mdl_1", "state": "importing", "total_bytes": 0, "counted_bytes": 9096},
        {"id": "ver_4", "model_id": "mdl_1", "state": "failed", "total_bytes": 0, "counted_bytes": 0},
        {"id": "ver_5", "model_id": "mdl_2", "state": "normal", "total_bytes": 9, "counted_bytes": 0},
    ],
    "model_imports": [{"version_id": "ver_3", "source": "version", "location": "ver_1"}],
    "model_files": [
        {"version_id": "ver_1", "size": 5000},
        {"version_id": "ver_1", "size": 3},
        {"version_id": "ver_5", "size": 9},
    ],
    "model_uploads": [{"id": "upl_1", "version_id": "ver_2"}],
    "model_upload_files": [{"upload_id": "upl_1", "size": 2}],
    "api_keys": [],
    "audit_events": [],
}
READY = Process(
    pid=50,
    parent=1,
    session=50,
    state="S",
    started=1,
    arguments=("python", "serve.py"),
    environ={"APPLIANCE_REPLICA": "rpl_1", "HOME": f"{HOME}/run/e/rpl_1", "NVIDIA_VISIBLE_DEVICES": "GPU-1"},
)


def evidence(*processes: Process, **tables: Sequence[Mapping[str, Any]]) -> Evidence:
    table = ProcessTable({process.pid: process for process in processes or (READY,)})
    return Evidence(home=HOME, appliance="apl_1", tables={**TABLES, **tables}, processes=table, at=NOW)


def container(name: str, labels: Mapping[str, str], *, running: bool = True, uuid: str = "GPU-1") -> Container:
    inspected = {"Config": {"Env": []}, "HostConfig": {"DeviceRequests": [{"DeviceIDs": [uuid]}]}}
    return Container(id=name * 8, name=name, labels=labels, running=running, inspected=inspected)


def labels(replica: str) -> Mapping[str, str]:
    return {"appliance": "apl_1", "replica": replica}


def problems(found: Sequence[object]) -> str:
    return "\n".join(map(str, found))


def test_a_consistent_appliance_has_no_violation():
    assert observe(evidence()) == []


def test_a_device_that_is_leased_beyond_its_whole():
    more = [*TABLES["device_leases"], {"device_id": "dev_1", "replica_id": "rpl_1", "share": 1}]
    found = problems(list(leases.within_database(evidence(device_leases=more))))
    assert "I1  dev_1: 101 % are leased" in found
    assert "I1  dev_1: counts 100 % as leased, its leases add up to 101 %" in found


@pytest.mark.parametrize("state", ["pending", "stopped", "failed"])
def test_a_lease_of_a_replica_that_holds_nothing(state: str):
    ended = [{**TABLES["replicas"][0], "state": state}]
    found = problems(list(leases.within_database(evidence(replicas=ended))))
    assert f"is leased by rpl_1, which is {state}" in found
    assert "memory is claimed by rpl_1, which is gone" in found


def test_a_node_that_counts_wrongly():
    found = leases.within_database(evidence(nodes=[{"id": "nod_1", "memory_claimed": 8}]))
    assert "nod_1: counts 8 bytes as claimed, its claims add up to 7" in problems(list(found))


def test_a_process_with_a_device_that_it_has_no_lease_of():
    taken = replace(READY, environ={**READY.environ, "NVIDIA_VISIBLE_DEVICES": "GPU-2"})
    found = problems(list(leases.across(evidence(taken))))
    assert "was given GPU-2 without a lease" in found
    assert "holds a lease of dev_1 and was not given it" in found


def test_a_container_with_a_device_that_it_has_no_lease_of():
    there = replace(evidence(), containers=[container("one", labels("rpl_1"), uuid="GPU-2")])
    assert "container one: was given GPU-2 without a lease" in problems(list(leases.across(there)))


def test_two_listeners_on_a_port_and_one_outside_its_gateway():
    one = TABLES["listeners"][0]
    there = evidence(listeners=[one, {**one, "id": "lsn_2"}, {**one, "id": "lsn_3", "port": 9016}])
    found = problems(list(listening.within_database(there)))
    assert "port 9000 of here: 2 listeners" in found
    assert "lsn_3: port 9016 is not one of gateway main" in found


def test_what_is_published_but_held_by_a_stranger(tmp_path: Path):
    _publish(tmp_path, 9000, supervisor=60)
    supervisor = replace(READY, pid=60, environ={})
    stranger = Listener("0.0.0.0", 9000, 1, frozenset({99}))
    ours = Listener("0.0.0.0", 9001, 2, frozenset({60}))
    there = replace(evidence(READY, supervisor), home=tmp_path, sockets=[stranger, ours])
    found = problems(list(listening.across(there)))
    assert "port 9000: is published and held by process 99" in found
    assert "port 9001: is open in the gateway and not published" in found


def test_a_snapshot_behind_the_database(tmp_path: Path):
    _publish(tmp_path, 9001, supervisor=60)
    found = listening.across(replace(evidence(), home=tmp_path))
    assert "lsn_1: is port 9000 in the database, 9001 in the snapshot" in problems(list(found))


def _publish(home: Path, port: int, *, supervisor: int) -> None:
    snapshot = home / "gateway" / "snapshot"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text('{"shards": {"listeners": "listeners-1.json"}}')
    (snapshot / "listeners-1.json").write_text(f'{{"listeners": [{{"id": "lsn_1", "port": {port}}}]}}')
    (home / "run").mkdir()
    (home / "run" / "supervisor.pid").write_text(f"{supervisor}\n")


def test_counters_that_differ_from_what_exists_or_pass_their_limit():
    quotas = [{"scope": "ten_1", "resource": "services", "used": 2, "quota_limit": 1}]
    found = problems(list(counters.within_database(evidence(quotas=quotas))))
    assert "2 used of 1" in found
    assert "2 counted, 1 exist" in found


def test_a_stopped_service_counts_no_devices():
    stopped = [{**TABLES["services"][0], "desired": "stopped"}]
    found = problems(list(counters.within_database(evidence(services=stopped))))
    assert found.splitlines() == [
        "I3  quota of devices of ten_1: 2 counted, 0 exist",
        "I3  quota of device_memory_bytes of ten_1: 10 counted, 0 exist",
        "I3  quota of cpu_millis of ten_1: 3000 counted, 0 exist",
        "I3  quota of memory_bytes of ten_1: 14 counted, 0 exist",
    ]


def test_a_process_without_an_owner():
    orphan = replace(READY, environ={**READY.environ, "APPLIANCE_REPLICA": "rpl_9"})
    found = problems(list(ownership.across(evidence(orphan))))
    assert "belongs to replica rpl_9, which does not exist" in found
    assert "rpl_1: is ready and has no engine" in found


def test_the_engine_of_another_appliance_is_left_alone():
    other = replace(READY, pid=51, environ={"APPLIANCE_REPLICA": "rpl_9", "HOME": "/srv/other/run/e/rpl_9"})
    assert list(ownership.across(evidence(READY, other))) == []


def test_containers_without_an_owner_or_twice_or_after_the_end():
    there = [container(name, labels(replica)) for name, replica in (("a", "rpl_1"), ("b", "rpl_1"), ("c", "rpl_9"))]
    found = problems(list(ownership.across(replace(evidence(), containers=there))))
    assert "rpl_1: runs in 2 containers: a, b" in found
    assert "container c: belongs to replica rpl_9, which does not exist" in found
    ended = evidence(replicas=[{**TABLES["replicas"][0], "state": "stopped"}])
    found = problems(list(ownership.across(replace(ended, containers=[container("a", labels("rpl_1"))]))))
    assert "container a: runs while replica rpl_1 is stopped" in found


def test_the_containers_of_another_appliance_are_left_alone():
    other = container("a", {**labels("rpl_9"), "appliance": "apl_2"})
    assert list(ownership.across(replace(evidence(), containers=[other]))) == []


def test_a_foreign_container_that_was_touched():
    foreign = container("others", {}, running=False)
    there = replace(evidence(), containers=[foreign], foreign=frozenset({foreign.id}))
    assert "had no label appliance and no longer runs" in problems(list(ownership.across(there)))


@pytest.mark.parametrize("state", ["placed", "starting", "draining", "stopping"])
def test_a_state_past_its_deadline(state: str):
    row = {**TABLES["replicas"][0], "state": state}

    def found(deadline: str | None) -> str:
        return problems(list(deadlines.within_database(evidence(replicas=[{**row, "deadline_at": deadline}]))))

    assert found("2026-01-01 11:59:50.000000") == ""
    assert f"rpl_1: is {state}, its deadline was 2026-01-01 11:00:00Z" in found("2026-01-01 11:00:00.000000")
    assert f"is {state} without a deadline" in found(None)


def test_a_secret_in_each_place(tmp_path: Path):
    secret = "s3cret-" + "x" * 30
    (tmp_path / "logs").mkdir()
    padding = b"." * ((1 << 20) - 10)  # the secret lies across the border of two blocks
    (tmp_path / "logs" / "control.log").write_bytes(padding + secret.encode())
    process = replace(
        READY, arguments=("engine", f"--api-key={secret}"), environ={"HOME": str(tmp_path), "KEY": secret}
    )
    there = replace(
        evidence(process, tenants=[{"id": "ten_1", "name": secret}]),
        home=tmp_path,
        secrets={"given": secret.encode()},
        containers=[replace(container("a", labels("rpl_1")), inspected={"Config": {"Env": [f"KEY={secret}"]}})],
    )
    assert {violation.subject for violation in secrecy.anywhere(there)} == {
        "arguments of process 50",
        "environment of process 50",
        "docker inspect a",
        "table tenants, column name",
        "logs/control.log",
    }


def test_the_appliance_s_own_secrets_are_looked_for(tmp_path: Path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "demo.key").write_text("ak-0123\n")
    (tmp_path / "secrets" / "master.key").write_bytes(bytes(range(200, 232)))
    body = "\n".join(letter * 64 for letter in "abc")
    (tmp_path / "secrets" / "ca.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\nxyz=\n-----END")
    found = secrets_of(tmp_path)
    assert found["demo.key"] == b"ak-0123"
    assert found["secrets/ca.key"] == b"c" * 64
    assert found["secrets/master.key in hexadecimal"].startswith(b"c8c9ca")


def test_a_recent_deadline_is_not_past():
    soon = (NOW - timedelta(seconds=1)).isoformat()
    row = {**TABLES["replicas"][0], "state": "starting", "deadline_at": soon}
    assert list(deadlines.within_database(evidence(replicas=[row]))) == []


def _grant(kind: str, target: str, expires_at: datetime | None = None) -> Mapping[str, Any]:
    row = {"tenant_id": "ten_1", "kind": kind, "pool_id": None, "device_class": None, "expires_at": None}
    ends = expires_at.isoformat(sep=" ") if expires_at else None
    return row | {"pool_id" if kind == "pool" else kind: target, "expires_at": ends}


def test_a_replica_in_a_pool_that_its_tenant_has_no_grant_of():
    dedicated = [{"id": "pol_1", "name": "night", "access": "dedicated"}]

    def found(*rows: Mapping[str, Any], state: str = "ready") -> str:
        replicas = [{**TABLES["replicas"][0], "state": state}]
        return problems(list(grants.lasting(evidence(pools=dedicated, grants=rows, replicas=replicas))))

    problem = "grants  rpl_1: is in pool night, which ten_1 has no grant of"
    assert found() == found(_grant("pool", "pol_2")) == found(_grant("pool", "pol_1", NOW)) == problem
    assert found(_grant("pool", "pol_1")) == found(_grant("pool", "pol_1", NOW + timedelta(seconds=1))) == ""
    assert found(state="draining") == found(state="pending") == ""


def test_a_device_of_a_class_that_its_tenant_has_no_grant_of():
    def found(*rows: Mapping[str, Any]) -> str:
        return problems(list(grants.lasting(evidence(grants=rows))))

    problem = "grants  rpl_1: holds a nvidia/L4, which ten_1 has no grant of"
    assert found(_grant("device_class", "nvidia/H200")) == found(_grant("device_class", "nvidia/L4", NOW)) == problem
    assert found() == found(_grant("device_class", "nvidia/L4")) == ""


def _reserved(*windows: tuple[str, int, int], replica: str | None = None) -> dict[str, Any]:
    """Reservations of the one device: for whom, and from when to when in hours of now."""
    rows = [
        {
            "id": f"rsv_{number}",
            "tenant_id": tenant,
            "replica_id": replica,
            "starts_at": NOW + timedelta(hours=begins),
            "ends_at": NOW + timedelta(hours=ends),
        }
        for number, (tenant, begins, ends) in enumerate(windows)
    ]
    links = [{"reservation_id": row["id"], "device_id": "dev_1"} for row in rows]
    return {"reservations": rows, "device_reservations": links}


def test_a_device_that_is_reserved_twice():
    def found(*windows: tuple[str, int, int]) -> str:
        return problems(list(reservations.within_database(evidence(**_reserved(*windows)))))

    assert found(("ten_1", 0, 2), ("ten_2", 1, 3)) == "reservations  dev_1: rsv_0 and rsv_1 overlap"
    assert found(("ten_1", 2, 3), ("ten_2", 1, 2)) == ""


def test_a_device_that_is_reserved_for_another_tenant():
    def found(begins: int, ends: int, tenant: str = "ten_2", state: str = "ready", replica: str | None = None) -> str:
        replicas = [{**TABLES["replicas"][0], "state": state}]
        reserved = _reserved((tenant, begins, ends), replica=replica)
        return problems(list(reservations.lasting(evidence(replicas=replicas, **reserved))))

    assert found(-1, 1) == found(0, 1) == "reservations  dev_1: is held by rpl_1, and reserved for ten_2 by rsv_0"
    assert found(1, 2) == found(-2, -1) == found(-1, 0) == found(-1, 1, tenant="ten_1") == ""
    assert found(-1, 1, state="draining") == found(-1, 1, replica="rpl_9") == ""
