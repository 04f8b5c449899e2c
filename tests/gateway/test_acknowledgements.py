"""What the control plane concludes from the workers' status files, which real processes write."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.gateway.acknowledgements import Acknowledgements
from appliance.gateway.plane.wire import status_path

_WORKER = """
import sys
from pathlib import Path
from appliance.gateway.plane.status import StatusWriter
status = StatusWriter(Path(sys.argv[1]))
entries = {}
print("ready", flush=True)
for line in sys.stdin:
    verb, *words = line.split()
    if verb == "applied":
        status.applied(int(words[0]))
    elif verb == "in_flight":
        if words[0] not in entries:
            entries[words[0]] = status.claim(words[0])
        status.set_in_flight(entries[words[0]], int(words[1]), int(words[1]))
    elif verb == "silent":
        status._longs[5] -= 60_000_000_000  # the heartbeat
    print("done", flush=True)
"""


class Worker:
    """A process that owns a status file and does what it is told."""

    def __init__(self, home: Path, index: int) -> None:
        arguments = [sys.executable, "-c", _WORKER, str(status_path(home, index))]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        self._answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline()


class Workers:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._started: list[Worker] = []

    def start(self, index: int) -> Worker:
        worker = Worker(self._home, index)
        self._started.append(worker)
        return worker

    def kill_all(self) -> None:
        for worker in self._started:
            worker.kill()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    status_path(tmp_path, 1).parent.mkdir(parents=True)
    workers = Workers(tmp_path)
    yield workers
    workers.kill_all()


@pytest.fixture
def acknowledgements(tmp_path: Path) -> Acknowledgements:
    return Acknowledgements(tmp_path)


def test_without_a_worker_everything_is_acknowledged(acknowledgements: Acknowledgements) -> None:
    assert acknowledgements.live_workers() == []
    assert acknowledgements.acknowledged(7)
    assert acknowledgements.in_flight(["rpl_1"]) == 0
    assert acknowledgements.applied_version() is None


def test_every_live_worker_must_have_applied_the_version(workers: Workers, acknowledgements: Acknowledgements) -> None:
    first, second = workers.start(1), workers.start(2)
    first.tell("applied 7")
    assert not acknowledgements.acknowledged(7), "a worker that has just started acknowledges nothing"
    second.tell("applied 6")
    assert not acknowledgements.acknowledged(7)
    assert acknowledgements.acknowledged(6)
    assert acknowledgements.applied_version() == 6
    second.tell("applied 8")
    assert acknowledgements.acknowledged(7)


def test_requests_in_flight_are_added_up(workers: Workers, acknowledgements: Acknowledgements) -> None:
    first, second = workers.start(1), workers.start(2)
    first.tell("in_flight rpl_1 3")
    second.tell("in_flight rpl_1 2")
    second.tell("in_flight rpl_2 4")
    assert acknowledgements.in_flight(["rpl_1"]) == 5
    assert acknowledgements.in_flight(["rpl_1", "rpl_2", "rpl_3"]) == 9
    first.tell("in_flight rpl_1 0")
    assert acknowledgements.in_flight(["rpl_1"]) == 2


def test_killed_worker_counts_no_more(workers: Workers, acknowledgements: Acknowledgements) -> None:
    worker = workers.start(1)
    worker.tell("in_flight rpl_1 3")
    assert not acknowledgements.acknowledged(1)
    worker.kill()
    assert acknowledgements.live_workers() == []
    assert acknowledgements.acknowledged(1)
    assert acknowledgements.in_flight(["rpl_1"]) == 0


def test_silent_worker_counts_no_more(workers: Workers, acknowledgements: Acknowledgements) -> None:
    worker = workers.start(1)
    assert len(acknowledgements.live_workers()) == 1
    worker.tell("silent")
    assert acknowledgements.live_workers() == []


def test_file_that_is_no_status_is_passed_over(tmp_path: Path, acknowledgements: Acknowledgements) -> None:
    directory = tmp_path / "gateway" / "status"
    directory.mkdir(parents=True)
    (directory / "worker-1").write_bytes(b"rubbish")
    assert acknowledgements.acknowledged(1)
