import os
import socket
import subprocess
import sys

from tests.support.ports import free_port
from tests.support.processes import Process, ProcessTable, eventually, listeners

MARK = "APPLIANCE_TEST_MARK"
SPAWN = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=sys.stdin)"


def test_descendants_marks_and_reused_pids():
    mark = f"{os.getpid()}-{free_port()}"
    child = subprocess.Popen([sys.executable, "-c", SPAWN], stdin=subprocess.PIPE, env={**os.environ, MARK: mark})
    try:
        marked = eventually(lambda: _marked(mark, 2), message="the child and its child run")
        table = ProcessTable.snapshot()
        assert {process.pid for process in table.descendants(child.pid)} < {p.pid for p in marked}
        assert child.pid in {process.pid for process in table.descendants(os.getpid())}
        assert all(process.is_running() for process in marked)
    finally:
        child.communicate(b"\n", timeout=10)
    assert not any(process.is_running() for process in marked)
    assert not ProcessTable.snapshot().with_environ(MARK, mark)


def _marked(mark: str, count: int) -> list[Process] | None:
    found = ProcessTable.snapshot().with_environ(MARK, mark)
    return found if len(found) == count else None


def test_listeners_name_address_port_and_holder():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        found = [listener for listener in listeners() if listener.port == port]
    assert [(listener.host, listener.pids) for listener in found] == [("127.0.0.1", {os.getpid()})]


def test_listeners_on_version_six():
    port = free_port()
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        assert [listener.host for listener in listeners() if listener.port == port] == ["::1"]
