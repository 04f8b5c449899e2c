"""What a snapshot tells the gateway: listeners, whose addresses may be taken, and workers; damaged snapshots."""

import socket
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import KEY, SERVICE, Gateway, chat, request, running, service, sha256
from tests.plane.test_life import connects, processes_of
from tests.support.ports import free_port, free_ports
from tests.support.waiting import eventually


def test_gateway_waits_for_the_first_snapshot(own_gateway: Gateway) -> None:
    own_gateway.start()
    eventually(lambda: own_gateway.report() is not None)
    own_gateway.publish(wait=False)
    own_gateway.await_serving()
    assert own_gateway.ask(request(chat())).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize("options", [[], [socket.SO_REUSEPORT]])
def test_port_of_a_foreign_process_is_reported_and_left_alone(
    own_gateway: Gateway, host: str, options: list[int]
) -> None:
    taken, other = free_ports(2)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as squatter:
        for option in [socket.SO_REUSEADDR, *options]:
            squatter.setsockopt(socket.SOL_SOCKET, option, 1)
        squatter.bind((host, taken))
        squatter.listen()
        own_gateway.port = other
        own_gateway.listeners = [
            wire.Listener("lsn_taken", "gwy_1", "127.0.0.1" if host != "::" else "::", taken, SERVICE),
            wire.Listener("lsn_free", "gwy_1", "127.0.0.1", other, SERVICE),
        ]
        own_gateway.publish()
        own_gateway.start()
        eventually(lambda: _bound(own_gateway) == {"lsn_taken": False, "lsn_free": True})
        report = own_gateway.report()
        assert report is not None
        (error,) = [each.error for each in report.listeners if each.id == "lsn_taken"]
        assert error is not None
        assert f":{taken} is in use by a process that is not this gateway's" in error
        eventually(lambda: own_gateway.ask(request(chat())).status == 200, ignoring=(OSError,))
        with socket.create_connection(("127.0.0.1", taken), 5):
            squatter.settimeout(5)
            squatter.accept()[0].close()
    # Once it is free it is bound, without anyone's asking.
    eventually(lambda: _bound(own_gateway) == {"lsn_taken": True, "lsn_free": True})


def _bound(gateway: Gateway) -> dict[str, bool]:
    report = gateway.report()
    return {} if report is None else {each.id: each.bound for each in report.listeners}


def test_listeners_come_and_go_with_the_snapshot(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        second = wire.Listener("lsn_2", "gwy_1", "::1", free_port(), SERVICE)
        gateway.listeners.append(second)
        gateway.publish()
        gateway.await_serving()
        gateway.listeners.remove(second)
        gateway.publish()
        eventually(lambda: not connects(second), message="the removed listener refuses")
        assert gateway.ask(request(chat())).status == 200


def test_number_of_workers_follows_the_snapshot(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        gateway.workers = 3
        gateway.publish()
        gateway.await_serving()
        gateway.workers = 1
        gateway.publish()
        eventually(lambda: len(processes_of(gateway)) == 2, message="one supervisor, one worker")
        for _ in range(20):
            assert gateway.ask(request(chat())).status == 200


def test_damaged_shard_leaves_the_last_good_set(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        good = gateway.version
        gateway.keys = {}
        gateway.services[SERVICE] = service(Path("/nonexistent"), served_model="other")
        gateway.publish(wait=False)
        # The race is the test's: whatever the worker saw first, damage what comes next.
        gateway.await_applied()
        gateway.keys = {sha256(KEY): wire.KeyEntry("key_1", "ten_1")}
        manifest = wire.snapshot_directory(gateway.home) / "manifest.json"
        damaged = manifest.read_bytes().replace(
            b'"version":%d' % gateway.version, b'"version":%d' % (gateway.version + 1)
        )
        shards = wire.snapshot_directory(gateway.home).glob("service-*.json")
        shard = next(path for path in shards if path.name.encode() in damaged)
        damaged = damaged.replace(shard.name.encode(), b"service-svc_1-0000000000000000.json")
        replacement = manifest.with_name("manifest.new")
        replacement.write_bytes(damaged)
        replacement.replace(manifest)
        eventually(lambda: gateway.statuses()[0].error, message="the damage is reported")
        (status,) = gateway.statuses()
        assert status.applied_version == gateway.version == good + 1
        assert "service-svc_1-0000000000000000.json" in status.error
        gateway.services[SERVICE] = service(Path("/nonexistent"))
        assert gateway.publish() == good + 3
        assert gateway.statuses()[0].error == ""


def test_worker_that_starts_onto_a_damaged_set_takes_the_one_before(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_gateway.publish()
    own_gateway.services[SERVICE] = service(own_engine.path, served_model="m2")
    own_gateway.publish()
    newest = max(
        wire.snapshot_directory(own_gateway.home).glob("service-*.json"), key=lambda path: path.stat().st_mtime_ns
    )
    newest.write_bytes(b"{")
    own_gateway.version -= 1
    own_gateway.start()
    own_gateway.await_serving()
    assert own_gateway.ask(request(chat())).status == 200
    report = own_gateway.report()
    assert report is not None
    assert own_gateway.statuses()[0].error
