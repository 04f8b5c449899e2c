"""The supervisor's sockets without its processes: who may listen at an address, and what is told of it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.listening import bind_shared
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import listeners_report_path, prepare
from appliance.gateway.plane.pool import WorkerProcess
from appliance.gateway.plane.socket_set import SocketSet
from tests.support.ports import free_port
from tests.support.waiting import eventually


@pytest.fixture
def listener() -> wire.Listener:
    return wire.Listener("lsn_1", "gwy_1", "127.0.0.1", free_port(), "svc_1")


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    """As the supervisor sees one that is there; what it is told is not read."""
    told, unread = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = WorkerProcess(0, 0, os.getpid(), None)
    worker.connection = told
    with unread:
        yield worker
    worker.close()


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[SocketSet]:
    prepare(tmp_path)
    sockets = SocketSet(tmp_path, Log(process="test"))
    yield sockets
    sockets.close()


def status(sockets: SocketSet, home: Path) -> wire.ListenerStatus:
    sockets.report(1, 1, "")
    (found,) = msgspec.json.decode(listeners_report_path(home).read_bytes(), type=wire.ListenersReport).listeners
    return found


def connects(listener: wire.Listener) -> bool:
    try:
        socket.create_connection((listener.host, listener.port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_address_is_listened_on_once_a_worker_has_the_socket(
    sockets: SocketSet, worker: WorkerProcess, listener: wire.Listener, tmp_path: Path
) -> None:
    sockets.reconcile([listener], 1)
    assert not status(sockets, tmp_path).bound
    assert not connects(listener)
    sockets.tell([worker])
    assert status(sockets, tmp_path).bound
    assert connects(listener)


def test_who_begins_to_listen_before_is_left_alone_and_told(
    sockets: SocketSet, worker: WorkerProcess, listener: wire.Listener, tmp_path: Path
) -> None:
    sockets.reconcile([listener], 1)
    with socket.create_server((listener.host, listener.port)):
        sockets.tell([worker])
        found = status(sockets, tmp_path)
        assert not found.bound
        assert "is in use by a process that is not this gateway's" in (found.error or "")
        sockets.tell([worker])
        assert worker.told == {}

    def is_bound() -> bool:
        sockets.reconcile([listener], 1)
        sockets.tell([worker])
        return status(sockets, tmp_path).bound

    eventually(is_bound, message="it is tried again")


def test_what_is_inherited_serves_the_seats_that_nothing_came_back_for(
    sockets: SocketSet, listener: wire.Listener, worker: WorkerProcess, tmp_path: Path
) -> None:
    sockets.reconcile([listener], 1)
    sockets.tell([worker])
    kept = [os.dup(each) for each in sockets.keep_over_exec()]
    with socket.create_connection((listener.host, listener.port)) as waiting:
        sockets.close()
        after = SocketSet(tmp_path, Log(process="test"))
        after.inherit(kept)
        after.reconcile([listener], 2)
        (again, second) = (socket.socket(fileno=os.dup(each)) for each in after.keep_over_exec())
        with again, second:
            accepted, address = again.accept()
            accepted.close()
            assert address == waiting.getsockname()
        after.close()


def test_what_is_inherited_and_not_desired_is_closed(listener: wire.Listener, tmp_path: Path) -> None:
    prepare(tmp_path)
    with bind_shared(listener.host, listener.port) as inherited:
        inherited.listen()
        after = SocketSet(tmp_path, Log(process="test"))
        after.inherit([os.dup(inherited.fileno())])
    assert connects(listener)
    after.reconcile([], 2)
    assert not connects(listener)
