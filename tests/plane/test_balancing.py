"""Balancing through real workers and several engines: who gets what, and what happens to those that fail."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.gateway.plane import local, wire
from tests.plane.balancing import metrics, replica
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, answer_chat, fake_engine, hold
from tests.plane.harness import SERVICE, Gateway, Response, chat, request, running, service
from tests.support.ports import free_port
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def module_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[FakeEngine]]:
    folder = tmp_path_factory.mktemp("engines")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(fake_engine(folder / f"{number}.sock")) for number in range(3)]


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory, module_engines: list[FakeEngine]) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with running(Gateway(home, free_port(), module_engines[0].path, workers=2)) as gateway:
        yield gateway


@pytest.fixture
def engines(module_engines: list[FakeEngine]) -> list[FakeEngine]:
    for engine in module_engines:
        engine.reset()
    return module_engines


@pytest.fixture
def gateway(module_gateway: Gateway, engines: list[FakeEngine], request: pytest.FixtureRequest) -> Gateway:
    """One deployment of three replicas, which no test before has known."""
    publish(module_gateway, engines, of=request.node.name)
    return module_gateway


def publish(gateway: Gateway, engines: list[FakeEngine], of: str = "", **changes: Any) -> None:
    named = [replica(f"rpl_{number}_{of}"[:40], engine.path) for number, engine in enumerate(engines)]
    deployments = [wire.Deployment(f"dep_{of}"[:40], "main", 100, named)]
    gateway.services = {SERVICE: service(engines[0].path, **{"deployments": deployments} | changes)}
    gateway.publish()


def ask(gateway: Gateway, messages: list[dict[str, str]], **fields: str) -> Response:
    """On a connection of its own, so that either worker may get it."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return gateway.ask(request(chat(messages=messages), fields=named))


def served(engines: list[FakeEngine]) -> list[int]:
    return [len(engine.requests) for engine in engines]


def states(gateway: Gateway) -> list[dict[str, Any]]:
    """What each worker tells of the replicas."""
    told = [asyncio.run(local.ask(gateway.home, index, local.STATE)) for index in range(gateway.workers)]
    return [{each["id"]: each for each in msgspec.json.decode(state)["replicas"]} for state in told]


def total(gateway: Gateway, name: str, labels: str) -> float:
    return sum(metrics(gateway, index).get((name, labels), 0) for index in range(gateway.workers))


def test_turns_of_a_chat_come_to_one_engine_through_whichever_worker(
    gateway: Gateway, engines: list[FakeEngine]
) -> None:
    used = set()
    for number in range(8):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {number}"}]
        for turn in range(6):
            before = served(engines)
            assert ask(gateway, messages).status == 200
            (home,) = [at for at in range(3) if served(engines)[at] > before[at]]
            used.add((number, home))
            messages += [
                {"role": "assistant", "content": f"Answer {turn}"},
                {"role": "user", "content": f"And {turn}?"},
            ]
    assert len(used) == 8
    assert len({home for _, home in used}) > 1


def test_session_sticks_while_its_replica_is_there(gateway: Gateway, engines: list[FakeEngine]) -> None:
    for number in range(12):
        ask(gateway, [{"role": "user", "content": f"{number}"}], x_appliance_session="mine")
    counts = served(engines)
    assert sorted(counts) == [0, 0, 12]

    left = [engine for at, engine in enumerate(engines) if counts[at] == 0]
    publish(gateway, left, of="fewer")
    for number in range(12):
        ask(gateway, [{"role": "user", "content": f"{number}"}], x_appliance_session="mine")
    assert sorted(served(engines)) == [0, 12, 12]


def test_deployment_of_no_weight_is_reached_by_its_name_alone(gateway: Gateway, engines: list[FakeEngine]) -> None:
    deployments = [
        wire.Deployment("dep_a", "main", 100, [replica("rpl_a", engines[0].path)]),
        wire.Deployment("dep_b", "canary", 0, [replica("rpl_b", engines[1].path)]),
    ]
    publish(gateway, engines, deployments=deployments)

    for _ in range(5):
        ask(gateway, [{"role": "user", "content": "hi"}])
    assert served(engines) == [5, 0, 0]
    named = {"x_appliance_deployment": "canary", "x_request_id": "to-canary"}
    answer = ask(gateway, [{"role": "user", "content": "hi"}], **named)
    assert answer.status == 200
    assert served(engines) == [5, 1, 0]
    assert gateway.record("to-canary").deployment_id == "dep_b"
    answer = ask(gateway, [{"role": "user", "content": "hi"}], x_appliance_deployment="other")
    assert (answer.status, answer.error["code"]) == (404, "deployment_not_found")


def test_engine_that_fails_is_left_alone_and_comes_back(gateway: Gateway, engines: list[FakeEngine]) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": {"message": "broken"}}, 500)

    publish(gateway, engines, of="failing", affinity="none")
    bad = engines[0]
    bad.script = fail
    hello = [{"role": "user", "content": "hi"}]

    def ejected_by_both() -> bool:
        ask(gateway, hello)
        return all(state["rpl_0_failing"].get("ejected") == "error" for state in states(gateway))

    eventually(ejected_by_both, message="both workers have ejected it")
    assert total(gateway, "ejections_total", 'deployment="dep_failing",reason="error"') >= 2
    assert total(gateway, "replicas_ejected", f'service="{SERVICE}",deployment="dep_failing"') == 2

    bad.script = answer_chat

    def back() -> bool:
        assert ask(gateway, hello).status == 200
        return not any(state["rpl_0_failing"].get("ejected") for state in states(gateway))

    eventually(back, message="both workers have it back")


def test_engine_that_dies_costs_no_request_and_comes_back(gateway: Gateway, tmp_path: Path) -> None:
    hello = [{"role": "user", "content": "hi"}]
    path = tmp_path / "mortal.sock"
    with fake_engine(tmp_path / "other.sock") as other:
        with fake_engine(path) as mortal:
            publish(gateway, [mortal, other], of="mortal", affinity="none")
            for _ in range(8):
                assert ask(gateway, hello).status == 200
            assert mortal.requests

        for _ in range(20):
            assert ask(gateway, hello).status == 200
        assert any(state["rpl_0_mortal"].get("ejected") == "connect" for state in states(gateway))

        with fake_engine(path) as again:

            def back() -> bool:
                assert ask(gateway, hello).status == 200
                return bool(again.requests) and not any(each["rpl_0_mortal"].get("ejected") for each in states(gateway))

            eventually(back, message="it is used again")


def test_silent_engine_is_ejected_by_its_timeouts(gateway: Gateway, engines: list[FakeEngine]) -> None:
    publish(gateway, engines, of="silent", affinity="none", timeouts=wire.Timeouts(first_byte_s=0.1))
    engines[0].script = hold
    hello = [{"role": "user", "content": "hi"}]

    def ejected() -> bool:
        ask(gateway, hello)
        return any(state["rpl_0_silent"].get("ejected") == "timeout" for state in states(gateway))

    eventually(ejected, timeout=30, message="it is ejected")


def test_only_replica_is_never_left_alone_for_its_answers(gateway: Gateway, engines: list[FakeEngine]) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": {"message": "broken"}}, 500)

    publish(gateway, engines[:1], of="only")
    engines[0].script = fail
    for _ in range(12):
        assert ask(gateway, [{"role": "user", "content": "hi"}]).error["code"] == "engine_error"
    assert served(engines) == [12, 0, 0]
    assert not any(state["rpl_0_only"].get("ejected") for state in states(gateway))
