"""Processes that die, start again, drain."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from appliance.gateway.plane import wire
from appliance.gateway.plane.paths import take_worker_lock
from tests.plane.fake_engine import DONE, FakeEngine, Gate, answer_chat
from tests.plane.harness import Connection, Gateway, chat, request, running
from tests.support.waiting import eventually

_HEARTBEAT_AT: Final = 40
"""In a worker's status."""


@contextmanager
def begun_stream(gateway: Gateway, request_id: str) -> Iterator[Connection]:
    with gateway.connect() as connection:
        connection.send(request(chat(stream=True), fields={"X-Request-Id": request_id}))
        connection.read_until(b"first")
        yield connection


def test_killed_workers_usage_is_recovered_once_and_it_is_replaced(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    with running(own_gateway) as gateway:
        gateway.ask(request(chat(), fields={"X-Request-Id": "before"}))
        own_engine.script = Gate()
        with begun_stream(gateway, "lost") as connection:
            pid = gateway.worker_pid()
            os.kill(pid, signal.SIGKILL)
            # The supervisor's copy of the socket keeps the queue: nobody is refused meanwhile.
            own_engine.script = answer_chat
            assert gateway.ask(request(chat(), fields={"X-Request-Id": "after"})).status == 200
            assert gateway.worker_pid() != pid
            assert connection.receive().count(b"[DONE]") == 0
            assert connection.at_end()

        lost = gateway.record("lost")
        assert (lost.outcome, lost.prompt_tokens, lost.completion_tokens) == ("worker_lost", 9, 1)
        assert lost.tail_tokens > 0
        assert gateway.record("before").outcome == gateway.record("after").outcome == "completed"
    assert sorted(record.request_id for record in gateway.records().values()) == ["after", "before", "lost"]


def test_workers_killed_again_and_again_lose_and_double_nothing(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    told = []
    with running(own_gateway) as gateway:
        for round_ in range(5):
            own_engine.script = Gate()
            with begun_stream(gateway, f"lost-{round_}"):
                told.append(f"lost-{round_}")
                os.kill(gateway.worker_pid(), signal.SIGKILL)
            own_engine.script = answer_chat
            for number in range(20):
                assert gateway.ask(request(chat(), fields={"X-Request-Id": f"{round_}-{number}"})).status == 200
                told.append(f"{round_}-{number}")
            gateway.records()  # segments are ingested and removed in between
    assert sorted(record.request_id for record in gateway.records().values()) == sorted(told)


def test_killed_supervisor_is_replaced_without_a_refused_connection(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_gateway.workers = 2
    with running(own_gateway) as gateway:
        pids = [gateway.worker_pid(index) for index in range(2)]
        gate = own_engine.script = Gate()
        with begun_stream(gateway, "through") as stream:
            own_engine.script = answer_chat
            failures: list[BaseException] = []
            stop = threading.Event()
            asker = threading.Thread(target=_ask_until, args=(gateway, stop, failures))
            asker.start()
            gateway.kill_supervisor()
            assert gateway.ask(request(chat())).status == 200
            gateway.start()
            gateway.await_serving()
            stop.set()
            asker.join(10)

            assert failures == []
            assert [gateway.worker_pid(index) for index in range(2)] == pids
            gate.open()
            assert DONE in stream.read_until(b"0\r\n\r\n")
        # What was adopted is owned: a worker that dies now is replaced with its socket.
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda: gateway.worker_pid(0) != pids[0], ignoring=(OSError, ValueError))
        gateway.await_serving()
    assert processes_of(gateway) == []


def _ask_until(gateway: Gateway, stop: threading.Event, failures: list[BaseException]) -> None:
    while not stop.is_set():
        try:
            assert gateway.ask(request(chat())).status == 200
        except (OSError, EOFError, AssertionError) as error:
            failures.append(error)


def test_worker_lost_while_there_is_no_supervisor_is_recovered_by_the_next(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_engine.script = Gate()
    with running(own_gateway) as gateway:
        with begun_stream(gateway, "lost"):
            gateway.kill_supervisor()
            os.kill(gateway.worker_pid(), signal.SIGKILL)
        gateway.start()
        gateway.await_serving()
        assert gateway.record("lost").outcome == "worker_lost"


def test_nothing_is_left_of_a_worker_that_is_not_started_again(own_gateway: Gateway) -> None:
    own_gateway.workers = 2
    with running(own_gateway) as gateway:
        gateway.kill_supervisor()
        os.kill(gateway.worker_pid(1), signal.SIGKILL)
        gateway.workers = 1
        gateway.publish(wait=False)
        gateway.start()
        gateway.await_serving()
        left = [*(gateway.home / "run").glob("worker-1*"), wire.status_path(gateway.home, 1)]
        assert [path.name for path in left if path.exists()] == ["worker-1.lock"]


def test_gateway_restarts_without_the_control_plane(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        assert gateway.ask(request(chat())).status == 200
    gateway.start()  # nothing is published: the last snapshot is what there is
    gateway.await_serving()
    assert gateway.ask(request(chat())).status == 200


def test_second_supervisor_does_not_start(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        command = [sys.executable, "-m", "appliance.gateway.plane.supervisor", "--home", str(gateway.home)]
        second = subprocess.run(command, capture_output=True, timeout=20, check=False)
        assert second.returncode == 3
        assert b"supervisor.already_running" in second.stderr
        assert int(wire.supervisor_pid_path(gateway.home).read_text()) == gateway.process.pid  # type: ignore[union-attr]


def test_sigterm_finishes_what_is_in_flight_and_refuses_what_is_new(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    gate = own_engine.script = Gate()
    with running(own_gateway) as gateway, begun_stream(gateway, "drained") as stream, gateway.connect() as idle:
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: not connects(gateway.listeners[0]), message="no new connection")
        assert idle.at_end()
        (status,) = gateway.statuses()
        assert (status.draining, status.in_flight_total, status.applied_version) == (True, 1, gateway.version)
        gate.open()
        assert DONE in stream.read_until(b"0\r\n\r\n")
        assert gateway.process.wait(10) == 0
        gateway.process = None
    assert [path.name for path in (gateway.home / "run").iterdir() if path.suffix != ".lock"] == []
    assert processes_of(gateway) == []
    assert gateway.record("drained").outcome == "completed"


def test_grace_that_ends_breaks_off_with_an_error(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_engine.script = Gate()
    own_gateway.grace_s = 0.3
    with running(own_gateway) as gateway, begun_stream(gateway, "broken-off") as stream:
        gateway.stop()
        rest = b""
        while piece := stream.receive():
            rest += piece
        assert b"gateway_restart" in rest
        assert b"[DONE]" not in rest
    assert gateway.record("broken-off").outcome == "timed_out"


def test_idle_worker_is_small(own_gateway: Gateway) -> None:
    with running(own_gateway) as gateway:
        for pid in processes_of(gateway):
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            assert resident < 40 * 1024 * 1024


def test_hung_worker_is_adopted_by_nobody_and_ended(own_gateway: Gateway) -> None:
    """A worker that is stopped keeps its lock; the next supervisor does not start a second one beside it."""
    with running(own_gateway) as gateway:
        pid = gateway.worker_pid()
        gateway.kill_supervisor()
        os.kill(pid, signal.SIGSTOP)
        os.utime(wire.pid_path(gateway.home, 0), (0, 0))  # it has been silent for long
        with wire.status_path(gateway.home, 0).open("r+b") as status:
            status.seek(_HEARTBEAT_AT)
            status.write(bytes(8))
        gateway.start()
        eventually(lambda: gateway.worker_pid() != pid, ignoring=(OSError, ValueError))
        gateway.await_serving()


def test_worker_that_answers_late_is_adopted_and_not_replaced(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    gate = own_engine.script = Gate()
    with running(own_gateway) as gateway:
        pid = gateway.worker_pid()
        with begun_stream(gateway, "through") as stream:
            gateway.kill_supervisor()
            os.kill(pid, signal.SIGSTOP)
            gateway.start()
            eventually(lambda: gateway.log().count('"supervisor.started"') == 2, message="one that begins without it")
            assert '"worker.adopted"' not in gateway.log()
            os.kill(pid, signal.SIGCONT)
            eventually(lambda: '"worker.adopted"' in gateway.log())
            gateway.await_serving()
            assert gateway.worker_pid() == pid
            gate.open()
            assert DONE in stream.read_until(b"0\r\n\r\n")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gateway.worker_pid() != pid, ignoring=(OSError, ValueError))
        own_engine.script = answer_chat
        assert gateway.ask(request(chat())).status == 200


def test_nobody_waits_at_a_socket_that_no_worker_has(own_gateway: Gateway) -> None:
    """Nor is anyone's connection lost with the supervisor, which alone has that socket."""
    own_gateway.workers = 2
    own_gateway.publish()
    (own_gateway.home / "run").mkdir(exist_ok=True)
    lock = take_worker_lock(own_gateway.home, 1)
    assert lock is not None
    try:
        own_gateway.start()
        eventually(lambda: '"listener.accepting"' in own_gateway.log(), message="worker 0 accepts")
        with ExitStack() as stack:
            before, after = ([stack.enter_context(own_gateway.connect()) for _ in range(32)] for _ in range(2))
            for each in before:
                each.send(request(chat()))
                assert each.answer().status == 200
            own_gateway.kill_supervisor()
            for each in after:
                each.send(request(chat()))
                assert each.answer().status == 200
    finally:
        os.close(lock)
    own_gateway.start()  # to be stopped with its workers
    own_gateway.await_serving()


def connects(listener: wire.Listener) -> bool:
    try:
        socket.create_connection((listener.host, listener.port), 1).close()
    except OSError:
        return False
    return True


def processes_of(gateway: Gateway) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                arguments = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(gateway.home).encode() in arguments:
                found.append(int(path.name))
    return found
