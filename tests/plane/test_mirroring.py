"""Mirrored requests through real processes: what the mirror gets, and that the live request never notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from tests.plane.balancing import metrics, replica
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, completion, fake_engine, hold
from tests.plane.harness import SERVICE, Gateway, chat, request, service
from tests.support.waiting import eventually


@pytest.fixture
def shadow(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "shadow.sock") as engine:
        yield engine


@pytest.fixture
def mirrored(gateway: Gateway, engine: FakeEngine, shadow: FakeEngine) -> Gateway:
    """Every request goes to `engine` and is mirrored to `shadow`."""
    _mirror(gateway, engine, shadow)
    return gateway


def _mirror(gateway: Gateway, engine: FakeEngine, shadow: FakeEngine, percent: float = 100, weight: float = 0) -> None:
    live = wire.Deployment("dep_1", "main", 100, [replica("rpl_1", engine.path)])
    other = wire.Deployment("dep_2", "next", weight, [replica(_shadow_id(shadow), shadow.path)])
    mirror = wire.Mirror("dep_2", percent)
    gateway.services = {SERVICE: service(engine.path, deployments=[live, other], mirror=mirror)}
    gateway.publish()


def _shadow_id(shadow: FakeEngine) -> str:
    """Each test's own: a replica that failed in the test before may still be ejected."""
    return f"rpl_{shadow.path.parent.name}"[:40]


def _count(gateway: Gateway, result: str) -> float:
    return metrics(gateway).get(("mirrored_total", f'deployment="dep_2",result="{result}"'), 0)


def test_mirror_gets_the_request_and_the_client_the_live_answer(
    mirrored: Gateway, engine: FakeEngine, shadow: FakeEngine
) -> None:
    async def other(_: EngineRequest, answer: Answer) -> None:
        await answer.json(completion("Something else.", 9, 40))

    shadow.script = other
    done = _count(mirrored, "completed")
    answer = mirrored.ask(request(chat(temperature=0.5), fields={"X-Request-Id": "mirror-1"}))

    assert (answer.status, answer.json) == (200, completion())
    eventually(lambda: _count(mirrored, "completed") == done + 1, message="the mirror is done")
    (seen,), (copied,) = engine.requests, shadow.requests
    assert (copied.line, copied.body) == (seen.line, seen.body)
    assert copied.field("x-request-id") != seen.field("x-request-id")
    assert str(copied.field("x-request-id")).endswith(".mirror")


def test_mirror_is_billed_to_nobody_and_counted_for_its_deployment(mirrored: Gateway, shadow: FakeEngine) -> None:
    tokens = ("completion_tokens_total", 'tenant="ten_1",service="svc_1",deployment="dep_2"')
    before = metrics(mirrored).get(tokens, 0)
    done = _count(mirrored, "completed")
    mirrored.ask(request(chat(stream=True), fields={"X-Request-Id": "mirror-2"}))
    eventually(lambda: _count(mirrored, "completed") == done + 1, message="the mirror is done")

    assert mirrored.record("mirror-2").deployment_id == "dep_1"
    mirrored.ask(request(chat(), fields={"X-Request-Id": "mirror-3"}))
    mirrored.record("mirror-3")  # whatever was before it is there, too
    assert {record.deployment_id for record in mirrored.records().values()} == {"dep_1"}
    assert metrics(mirrored)[tokens] >= before + 3


@pytest.mark.parametrize("script", ["hold", "error", "abort"])
def test_mirror_that_fails_changes_nothing(
    mirrored: Gateway, engine: FakeEngine, shadow: FakeEngine, script: str
) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        if script == "error":
            await answer.json({"error": {"message": "broken"}}, 500)
        else:
            answer.abort()

    shadow.script = hold if script == "hold" else fail
    for _ in range(5):
        answer = mirrored.ask(request(chat()))
        assert (answer.status, answer.json) == (200, completion())
    assert len(engine.requests) == 5


def test_mirror_without_an_engine_changes_nothing(gateway: Gateway, engine: FakeEngine, tmp_path: Path) -> None:
    failed, dropped = _count(gateway, "failed"), _count(gateway, "dropped_no_room")
    live = wire.Deployment("dep_1", "main", 100, [replica("rpl_1", engine.path)])
    other = wire.Deployment("dep_2", "next", 0, [replica("rpl_none", tmp_path / "none.sock")])
    mirror = wire.Mirror("dep_2", 100)
    gateway.services = {SERVICE: service(engine.path, deployments=[live, other], mirror=mirror)}
    gateway.publish()

    for _ in range(3):
        assert gateway.ask(request(chat())).status == 200

    eventually(
        lambda: _count(gateway, "failed") + _count(gateway, "dropped_no_room") == failed + dropped + 3,
        message="all mirrors are counted",
    )
    assert _count(gateway, "failed") > failed


def test_mirror_in_flight_is_in_the_status_until_it_ends(mirrored: Gateway, shadow: FakeEngine) -> None:
    gate = Gate()
    shadow.script = gate

    def in_flight() -> int:
        (status,) = mirrored.statuses()
        return status.replicas[_shadow_id(shadow)][0]

    try:
        assert mirrored.ask(request(chat(stream=True))).complete
        eventually(lambda: in_flight() == 1, message="the mirror is counted")
        eventually(lambda: len(shadow.requests) == 1, message="the mirror has come")
    finally:
        gate.open()
    eventually(lambda: in_flight() == 0, message="the mirror has ended")


def test_mirror_ends_at_the_live_deadline(gateway: Gateway, engine: FakeEngine, shadow: FakeEngine) -> None:
    _mirror(gateway, engine, shadow)
    timed_out = _count(gateway, "timed_out")
    shard = gateway.services[SERVICE]
    gateway.services = {
        SERVICE: service(
            engine.path, deployments=shard.deployments, mirror=shard.mirror, timeouts=wire.Timeouts(total_s=0.5)
        )
    }
    gateway.publish()
    shadow.script = hold

    assert gateway.ask(request(chat())).status == 200

    eventually(lambda: _count(gateway, "timed_out") == timed_out + 1, message="the mirror was stopped")
    assert shadow.requests[0].gone.wait(5)


def test_mirrors_that_pile_up_are_dropped(mirrored: Gateway, engine: FakeEngine, shadow: FakeEngine) -> None:
    shadow.script = hold
    dropped = _count(mirrored, "dropped_behind")
    with mirrored.connect() as connection:
        for _ in range(140):
            connection.send(request(chat()))
            assert connection.answer().status == 200

    assert _count(mirrored, "dropped_behind") == dropped + 140 - 128
    assert len(engine.requests) == 140
    mirrored.services = {}
    mirrored.publish()


def test_deployment_with_live_traffic_is_no_mirror(gateway: Gateway, engine: FakeEngine, shadow: FakeEngine) -> None:
    _mirror(gateway, engine, shadow, weight=1e-9)
    for _ in range(5):
        gateway.ask(request(chat()))

    assert (len(engine.requests), len(shadow.requests)) == (5, 0)


def test_addressed_request_is_not_mirrored(mirrored: Gateway, engine: FakeEngine, shadow: FakeEngine) -> None:
    mirrored.ask(request(chat(), fields={"x-appliance-deployment": "main"}))
    mirrored.ask(request(chat(), fields={"azureml-model-deployment": "next"}))

    assert (len(engine.requests), len(shadow.requests)) == (1, 1)
    assert not str(shadow.requests[0].field("x-request-id")).endswith(".mirror")
