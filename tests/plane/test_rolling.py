"""Taking over new code: the supervisor and all workers are replaced under load, and no request notices."""

import os
import signal
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.plane.fake_engine import DONE, FakeEngine, Gate, answer_chat
from tests.plane.harness import Connection, Gateway, chat, request, running
from tests.plane.test_life import begun_stream, processes_of
from tests.support.waiting import eventually

WORKERS = 2
ROLLED = '"roll.finished"'
RENEWING = '"supervisor.renewing"'
LISTEN = "0A"
"""A socket's state in /proc/net/tcp."""


def worker_pids(gateway: Gateway) -> set[int]:
    """Of those that have said that they run."""
    return {int(path.read_text()) for path in (gateway.home / "run").glob("worker-*.pid")}


def has_rolled(gateway: Gateway, before: int) -> bool:
    return gateway.log().count(ROLLED) > before


def all_are_new(gateway: Gateway, old: set[int]) -> bool:
    found = worker_pids(gateway)
    return len(found) == WORKERS and found.isdisjoint(old)


class Asker(threading.Thread):
    """Asks without a pause, over one connection for as long as it may be kept, or over a new one each time."""

    def __init__(self, gateway: Gateway, stop: threading.Event, *, keep_alive: bool) -> None:
        super().__init__()
        self._gateway, self._until, self._keep_alive = gateway, stop, keep_alive
        self.answered = 0
        self.failures: list[str] = []

    def run(self) -> None:
        connection: Connection | None = None
        while not self._until.is_set():
            try:
                connection = connection or self._gateway.connect()
                connection.send(request(chat()))
                answer = connection.answer()
                if answer.status != 200:
                    self.failures.append(f"status {answer.status}")
                self.answered += 1
                if not self._keep_alive or answer.fields.get("connection") == "close":
                    connection.socket.close()
                    connection = None
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))
                connection = None
        if connection is not None:
            connection.socket.close()


def test_all_processes_are_replaced_under_load(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.workers = WORKERS
    own_gateway.grace_s = 60.0
    with running(own_gateway) as gateway:
        assert gateway.process is not None
        supervisor = gateway.process.pid
        before = worker_pids(gateway)
        gate = own_engine.script = Gate()
        with gateway.connect(30) as stream:
            stream.send(request(chat(stream=True)))
            stream.read_until(b"first")
            own_engine.script = answer_chat
            stop = threading.Event()
            askers = [Asker(gateway, stop, keep_alive=bool(number % 2)) for number in range(6)]
            for asker in askers:
                asker.start()
            try:
                for _ in range(2):
                    old = worker_pids(gateway)
                    gateway.process.send_signal(signal.SIGHUP)
                    eventually(partial(has_rolled, gateway, gateway.log().count(ROLLED)), 30)
                    rolled = worker_pids(gateway) - old
                    assert len(rolled) == WORKERS
            finally:
                stop.set()
                for asker in askers:
                    asker.join(20)
            assert [failure for asker in askers for failure in asker.failures] == []
            assert all(asker.answered > 10 for asker in askers)
            gate.open()
            assert DONE in stream.read_until(b"0\r\n\r\n")
        eventually(lambda: len(worker_pids(gateway)) == WORKERS, 20, message="the old workers have ended")
        assert not before & worker_pids(gateway)
        assert gateway.process.poll() is None
        eventually(lambda: not zombies_of(supervisor), message="the ended workers are waited for")
        # What was taken over is owned: a worker that dies now is replaced.
        victim = min(worker_pids(gateway))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(worker_pids(gateway) - {victim}) == WORKERS, 20, ignoring=(ValueError,))
        assert gateway.ask(request(chat())).status == 200
        gateway.workers = 0  # `stop` below looks at no numbers
    total = sum(asker.answered for asker in askers)
    assert sum(record.outcome == "completed" for record in gateway.records().values()) >= total


def zombies_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if (fields[0], int(fields[1])) == ("Z", parent):
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("times", [3])
def test_worker_killed_while_it_is_replaced_is_replaced_all_the_same(
    own_gateway: Gateway, own_engine: FakeEngine, times: int
) -> None:
    own_gateway.workers = WORKERS
    own_engine.script = answer_chat
    with running(own_gateway) as gateway:
        assert gateway.process is not None
        for _ in range(times):
            old = worker_pids(gateway)
            gateway.process.send_signal(signal.SIGHUP)
            os.kill(max(old), signal.SIGKILL)
            eventually(partial(all_are_new, gateway, old), 30, ignoring=(OSError, ValueError))
            assert gateway.ask(request(chat())).status == 200


def test_each_program_has_one_socket_for_each_worker(own_gateway: Gateway) -> None:
    """One more would have its share of the connections, and nobody would accept them once its worker is gone."""
    own_gateway.workers = WORKERS
    with running(own_gateway) as gateway:
        assert gateway.process is not None
        for _ in range(3):
            before = gateway.log().count(ROLLED)
            gateway.process.send_signal(signal.SIGHUP)
            eventually(partial(has_rolled, gateway, before), 30)
            assert len(listening_descriptors(gateway.process.pid, gateway.port)) == WORKERS


def listening_descriptors(pid: int, port: int) -> list[str]:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {fields[9] for fields in lines if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port}
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:") and link[8:-1] in inodes]


def test_connections_that_wait_for_a_worker_outlive_it_and_the_program_of_the_supervisor(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway, ExitStack() as stack:
        assert gateway.process is not None
        pid = gateway.worker_pid()
        os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(gateway.connect(30)) for _ in range(8)]
        for each in waiting:
            each.send(request(chat()))
        begin_to_renew(gateway)
        os.kill(pid, signal.SIGKILL)  # while neither program has asked it for its sockets
        assert [each.answer().status for each in waiting] == [200] * len(waiting)
        assert gateway.worker_pid() != pid


def test_second_renewal_waits_for_the_first(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        assert gateway.process is not None
        begin_to_renew(gateway)
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.log().count(ROLLED) == 2, 30)
        assert gateway.process.poll() is None
        assert gateway.ask(request(chat())).status == 200


def test_stop_that_comes_while_the_program_is_replaced_ends_all(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        begin_to_renew(gateway)
        assert gateway.stop(30) == 0
        assert processes_of(gateway) == []


def test_usage_of_a_worker_that_dies_beside_its_successor_is_not_kept_waiting(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    """The successor has another number, and would not look at what this one left."""
    own_engine.script = Gate()
    with running(own_gateway) as gateway, begun_stream(gateway, "lost"):
        assert gateway.process is not None
        old = gateway.worker_pid(0)
        gateway.process.send_signal(signal.SIGHUP)
        new = eventually(lambda: gateway.worker_pid(1), ignoring=(OSError, ValueError))
        os.kill(new, signal.SIGSTOP)
        try:
            os.kill(old, signal.SIGKILL)
            assert gateway.record("lost").outcome == "worker_lost"
            eventually(lambda: worker_pids(gateway) == {new}, message="nothing is left of it")
        finally:
            os.kill(new, signal.SIGCONT)
        gateway.workers = 0  # `stop` below looks at no numbers


def begin_to_renew(gateway: Gateway) -> None:
    """Returns while the next program is still being loaded: it knows no signals yet."""
    assert gateway.process is not None
    before = gateway.log().count(RENEWING)
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: gateway.log().count(RENEWING) > before)
