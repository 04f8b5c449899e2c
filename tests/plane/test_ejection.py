"""When a replica gets no requests, for how long, and how it comes back."""

from dataclasses import dataclass, field

import pytest

from appliance.gateway.plane import ejection, wire
from appliance.gateway.plane.backends import Backends, Replica
from appliance.gateway.plane.ejection import IN_A_ROW, LONGEST_S, QUIET_S, Reason, answered, duration, failed
from appliance.gateway.plane.log import Log
from tests.plane.parts import backends


@dataclass
class Worker:
    """A clock that stands until it is set."""

    at: float = 1000.0
    backends: Backends = field(default_factory=backends)
    log: Log = field(default_factory=lambda: Log(process="test", worker=0))

    def now(self) -> float:
        return self.at

    def replicas(self, count: int) -> list[Replica]:
        return [self.backends.get(wire.Replica(f"rpl_{number}", ""), "dep_1") for number in range(count)]

    def fail(self, replica: Replica, reason: Reason = "error", times: int = IN_A_ROW) -> None:
        for _ in range(times):
            failed(self, replica, reason)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_replica_that_cannot_be_connected_to_is_ejected_at_once(worker: Worker) -> None:
    (only,) = worker.replicas(1)
    failed(worker, only, "connect")
    assert not only.is_eligible(worker.at)
    assert worker.backends.ejections == {("dep_1", "connect"): 1}


@pytest.mark.parametrize("reason", ["error", "reset", "timeout"])
def test_failures_count_in_a_row(worker: Worker, reason: Reason) -> None:
    replica, _ = worker.replicas(2)
    for _ in range(5):
        worker.fail(replica, reason, IN_A_ROW - 1)
        answered(worker, replica, 200)
    assert replica.is_eligible(worker.at)
    worker.fail(replica, reason)
    assert not replica.is_eligible(worker.at)
    assert replica.down_reason == reason


@pytest.mark.parametrize(("status", "ejected"), [(500, True), (502, True), (503, False), (429, False), (400, False)])
def test_only_errors_of_the_engine_itself_count(worker: Worker, status: int, *, ejected: bool) -> None:
    replica, _ = worker.replicas(2)
    for _ in range(IN_A_ROW):
        answered(worker, replica, status)
    assert replica.is_eligible(worker.at) is not ejected


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_at_most_half_are_ejected_for_their_answers(worker: Worker, count: int, most: int) -> None:
    replicas = worker.replicas(count)
    for replica in replicas:
        worker.fail(replica)
    assert sum(not replica.is_eligible(worker.at) for replica in replicas) == most


def test_retired_replicas_and_those_of_other_deployments_do_not_count(worker: Worker) -> None:
    first, second = worker.replicas(2)
    other = worker.backends.get(wire.Replica("rpl_other", ""), "dep_2")
    worker.backends.begin(second)
    worker.backends.retire_all_but({first.id, other.id})
    worker.fail(first)
    assert first.is_eligible(worker.at)


def test_all_may_be_ejected_when_none_can_be_connected_to(worker: Worker) -> None:
    replicas = worker.replicas(3)
    for replica in replicas:
        failed(worker, replica, "connect")
    assert not any(replica.is_eligible(worker.at) for replica in replicas)


def test_time_grows_up_to_a_cap_and_is_jittered(worker: Worker) -> None:
    (replica,) = worker.replicas(1)
    for number in range(1, 12):
        failed(worker, replica, "connect")
        seconds = replica.down_until - worker.at
        assert 0.8 * duration(number) <= seconds <= 1.2 * duration(number)
        worker.at = replica.down_until
    assert duration(1) == ejection.FIRST_S
    assert duration(11) == duration(10_000) == LONGEST_S
    firsts = set()
    for number in range(10):
        other = worker.backends.get(wire.Replica(f"rpl_{number}_of_2", ""), "dep_2")
        failed(worker, other, "connect")
        firsts.add(other.down_until)
    assert len(firsts) == 10


def test_what_was_in_flight_at_the_ejection_makes_it_no_longer(worker: Worker) -> None:
    (replica,) = worker.replicas(1)
    failed(worker, replica, "connect")
    until = replica.down_until
    worker.fail(replica, "reset", 20)
    assert (replica.down_until, replica.ejections) == (until, 1)


def test_after_its_time_one_request_at_a_time_tries_it(worker: Worker) -> None:
    replica, _ = worker.replicas(2)
    for _ in range(3):
        worker.backends.begin(replica)
    worker.fail(replica)
    assert not replica.is_eligible(worker.at)

    worker.at = replica.down_until
    assert replica.is_eligible(worker.at)
    worker.backends.begin(replica)
    assert not replica.is_eligible(worker.at)
    worker.backends.end(replica)  # of those before: the trial still runs
    assert not replica.is_eligible(worker.at)
    for _ in range(3):
        worker.backends.end(replica)  # the trial left without an answer
    assert replica.is_eligible(worker.at)


def test_good_answer_brings_it_back_wholly(worker: Worker) -> None:
    replica, _ = worker.replicas(2)
    worker.fail(replica)
    worker.at = replica.down_until
    worker.backends.begin(replica)
    answered(worker, replica, 200)

    assert not replica.troubled
    worker.backends.begin(replica)
    assert replica.is_eligible(worker.at)
    worker.fail(replica, times=IN_A_ROW - 1)
    assert replica.is_eligible(worker.at)


@pytest.mark.parametrize("status", [500, 503])
def test_trial_that_fails_ejects_it_again_and_longer(worker: Worker, status: int) -> None:
    replica, _ = worker.replicas(2)
    worker.fail(replica)
    worker.at = replica.down_until
    worker.backends.begin(replica)
    answered(worker, replica, status)
    assert replica.down_until - worker.at >= 0.8 * duration(2)


def test_one_that_fails_again_soon_is_ejected_for_longer_and_after_a_quiet_time_not(worker: Worker) -> None:
    (replica,) = worker.replicas(1)
    for quiet, times in ((0.0, 1), (1.0, 2), (QUIET_S + 1, 1)):
        worker.at += quiet
        failed(worker, replica, "connect")
        assert replica.ejections == times
        worker.at = replica.down_until
        answered(worker, replica, 200)


def test_new_socket_is_a_new_beginning(worker: Worker) -> None:
    (replica,) = worker.replicas(1)
    failed(worker, replica, "connect")
    worker.backends.get(wire.Replica(replica.id, "/run/new"), "dep_1")
    assert replica.is_eligible(worker.at)
