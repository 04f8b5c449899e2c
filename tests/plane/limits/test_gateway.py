"""Limits and budgets of a gateway of four worker processes, under two hundred clients at once and kills."""

import asyncio
import os
import select
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec
import openai
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.layout import HELD_TOKENS, Kind
from appliance.gateway.plane.limits.periods import spent
from appliance.gateway.plane.schemas.limits import Budget, Limits
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, answer_chat, completion, hold
from tests.plane.harness import (
    KEY,
    TENANT,
    Connection,
    Gateway,
    chat,
    key_entry,
    request,
    running,
    service,
    sha256,
)
from tests.support.ports import free_port
from tests.support.waiting import eventually

WORKERS = 4
CLIENTS = 200
PROMPT = 9
"""Tokens of `chat()`, by the gateway's estimate and by the fake engine's count."""
WHOSE = ["key", "service", "tenant"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, module_engine: FakeEngine) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("home"), free_port(), module_engine.path, workers=WORKERS)
    with running(gateway):
        yield gateway


@contextmanager
def limited(gateway: Gateway, engine: FakeEngine, whose: str, name: str, **bounds: Any) -> Iterator[None]:
    """The gateway with the key's, the service's or the tenant's bounds; each name is a tenant of its own, so that
    nothing is left of another test.
    """
    tenant, served = f"ten_{name}", f"svc_{name}"
    entry = key_entry(key_id=f"key_{name}", tenant_id=tenant)
    shard = service(engine.path, id=served, tenant_id=tenant)
    account = wire.TenantEntry("acme")
    gateway.keys = {sha256(KEY): msgspec.structs.replace(entry, **bounds) if whose == "key" else entry}
    gateway.services = {served: msgspec.structs.replace(shard, **bounds) if whose == "service" else shard}
    gateway.tenants = {tenant: msgspec.structs.replace(account, **bounds) if whose == "tenant" else account}
    gateway.listeners = [msgspec.structs.replace(gateway.listeners[0], service_id=served)]
    gateway.publish()
    try:
        yield
    finally:
        eventually(lambda: all(status.in_flight_total == 0 for status in gateway.statuses()))


class Held:
    """An engine that answers when the test lets it, with as many tokens as were allowed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = asyncio.Event()
        self.asked = 0

    def open(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._opened.set)

    async def __call__(self, seen: EngineRequest, answer: Answer) -> None:
        self._loop = asyncio.get_running_loop()
        self.asked += 1
        await self._opened.wait()
        await answer.json(completion(prompt=PROMPT, tokens=seen.json["max_tokens"]))


def at_once(gateway: Gateway, data: bytes, engine: Held) -> Counter[int]:
    """How often which status came to as many requests as there are clients, each over a connection of its own, while
    none ends: the engine answers once each request was refused or has reached it.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect(30)) for _ in range(CLIENTS)]
        waiting = {client.socket.fileno(): client for client in clients}
        for client in clients:
            client.send(data)
        statuses: Counter[int] = Counter()

        def all_decided() -> bool:
            readable, _, _ = select.select(list(waiting), [], [], 0)
            statuses.update(waiting.pop(number).answer().status for number in readable)
            return len(waiting) == engine.asked

        eventually(all_decided, 30, message="each request is refused or has reached the engine")
        engine.open()
        statuses.update(client.answer().status for client in waiting.values())
    return statuses


def spent_and_reserved(gateway: Gateway, budget: str) -> tuple[int, int]:
    """Of a budget for ever, over the tables of all workers."""
    directory = layout.limits_directory(gateway.home)
    hashed = layout.Node(directory).hash(Kind.BUDGET_TOTAL, budget)
    tables = [layout.map_table(path) for path in sorted(directory.glob("worker-*"))]
    rows = [(words, at) for words in tables if (at := layout.find(words, hashed)) is not None]
    return spent(rows, 1), sum(words[at + HELD_TOKENS] for words, at in rows)


def billed(gateway: Gateway) -> int:
    return sum(record.prompt_tokens + record.completion_tokens for record in gateway.records().values())


@pytest.mark.parametrize("whose", WHOSE)
def test_requests_per_minute_hold_under_all_clients(pool: Gateway, engine: FakeEngine, whose: str) -> None:
    held = engine.script = Held()
    with limited(pool, engine, whose, f"requests_{whose}", limits=Limits(requests_per_minute=50)):
        statuses = at_once(pool, request(chat(max_tokens=5)), held)
    assert statuses.keys() == {200, 429}
    assert 50 <= statuses[200] <= 50 + WORKERS - 1


@pytest.mark.parametrize("whose", WHOSE)
def test_tokens_per_minute_hold_under_all_clients(pool: Gateway, engine: FakeEngine, whose: str) -> None:
    held = engine.script = Held()
    with limited(pool, engine, whose, f"tokens_{whose}", limits=Limits(tokens_per_minute=3000)):
        statuses = at_once(pool, request(chat(max_tokens=100 - PROMPT)), held)
        refused = pool.ask(request(chat(max_tokens=100 - PROMPT)))
    assert statuses.keys() == {200, 429}
    assert 30 <= statuses[200] <= 30 + WORKERS - 1
    assert (refused.status, refused.error["type"]) == (429, "tokens"), "what was reserved has been used"


@pytest.mark.parametrize("whose", WHOSE)
def test_concurrent_requests_hold_under_all_clients(pool: Gateway, engine: FakeEngine, whose: str) -> None:
    held = engine.script = Held()
    with limited(pool, engine, whose, f"concurrent_{whose}", limits=Limits(concurrent_requests=20)):
        statuses = at_once(pool, request(chat(max_tokens=5)), held)
        assert statuses.keys() == {200, 429}
        assert 20 <= statuses[200] <= 20 + WORKERS - 1
        again = engine.script = Held()
        assert 20 <= at_once(pool, request(chat(max_tokens=5)), again)[200] <= 20 + WORKERS - 1


@pytest.mark.parametrize("whose", WHOSE)
def test_budget_holds_under_all_clients(pool: Gateway, engine: FakeEngine, whose: str) -> None:
    held = engine.script = Held()
    budget = Budget(f"bud_{whose}", 3000)
    with limited(pool, engine, whose, f"budget_{whose}", budgets=[budget]):
        statuses = at_once(pool, request(chat(max_tokens=100 - PROMPT)), held)
        assert statuses.keys() == {200, 429}
        assert 30 <= statuses[200] <= 30 + WORKERS - 1
        eventually(lambda: spent_and_reserved(pool, budget.id) == (100 * statuses[200], 0))
        refused = pool.ask(request(chat(max_tokens=1)))
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


def test_nothing_is_told_where_nothing_is_limited(pool: Gateway, engine: FakeEngine) -> None:
    with limited(pool, engine, "key", "free"):
        answer = pool.ask(request(chat()))
    assert answer.status == 200
    assert not [name for name in answer.fields if "ratelimit" in name]


def test_sdk_sees_limits_in_answers_streams_and_refusals(pool: Gateway, engine: FakeEngine) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=5000)
    with (
        limited(pool, engine, "tenant", "sdk", limits=limits),
        openai.OpenAI(base_url=f"http://127.0.0.1:{pool.port}/v1", api_key=KEY, max_retries=0) as client,
    ):
        ask = client.chat.completions
        messages: Any = [{"role": "user", "content": "hi"}]
        answer = ask.with_raw_response.create(model="m", messages=messages)
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert answer.headers["x-ratelimit-limit-tokens"] == "5000"
        with ask.create(model="m", messages=messages, stream=True) as stream:
            assert stream.response.headers["x-ratelimit-remaining-requests"] == "0"
            assert len(list(stream)) == 3
        with pytest.raises(openai.RateLimitError) as caught:
            ask.create(model="m", messages=messages)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120


def test_refused_at_the_head_before_its_body_is_sent(pool: Gateway, engine: FakeEngine) -> None:
    with limited(pool, engine, "key", "head", limits=Limits(requests_per_minute=1)):
        assert pool.ask(request(chat())).status == 200
        with pool.connect() as connection:
            connection.send(request(chat(), fields={"Expect": "100-continue"}).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert connection.answer().status == 429


def test_whatever_ends_a_request_frees_what_it_held(pool: Gateway, engine: FakeEngine) -> None:
    budget = Budget("bud_ends", 1_000_000)
    limits = Limits(concurrent_requests=1)
    with limited(pool, engine, "tenant", "ends", limits=limits, budgets=[budget]):
        for ending in ("left", "failed", "no replica", "invalid"):
            engine.script = {"left": hold, "failed": fail}.get(ending, answer_chat)
            if ending == "no replica":
                served = next(iter(pool.services.values()))
                pool.services[served.id] = msgspec.structs.replace(served, deployments=[])
                pool.publish()
            if ending == "left":
                with pool.connect() as connection:
                    connection.send(request(chat(stream=True, max_tokens=50)))
                    eventually(lambda: spent_and_reserved(pool, budget.id)[1] == 50 + PROMPT)
                    assert pool.ask(request(chat())).error["type"] == "concurrent_requests"
            else:
                body = chat(max_tokens="many") if ending == "invalid" else chat(max_tokens=50)
                assert pool.ask(request(body)).status == {"failed": 502, "no replica": 503, "invalid": 400}[ending]
            eventually(lambda: spent_and_reserved(pool, budget.id)[1] == 0, message=ending)
        assert pool.ask(request(chat())).status == 503, "the one place is free"


async def fail(_: EngineRequest, answer: Answer) -> None:
    answer.abort()


# Kills


@contextmanager
def streams(gateway: Gateway, count: int) -> Iterator[list[Connection]]:
    """Streams that have begun and do not end by themselves."""
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(count)]
        for client in clients:
            client.send(request(chat(stream=True, max_tokens=100)))
            client.read_until(b"first")
        yield clients


def test_killed_workers_budget_is_charged_once_and_kept_by_every_restart(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_gateway.workers = 2
    own_gateway.tenants = {TENANT: wire.TenantEntry("acme", budgets=[Budget("bud_kill", 10_000)])}
    with running(own_gateway) as gateway:
        gateway.ask(request(chat(max_tokens=50)))
        before = PROMPT + 12
        eventually(lambda: spent_and_reserved(gateway, "bud_kill") == (before, 0))
        own_engine.script = Gate()
        with streams(gateway, 6):
            assert spent_and_reserved(gateway, "bud_kill") == (before, 6 * (100 + PROMPT))
            for index in range(2):
                os.kill(gateway.worker_pid(index), signal.SIGKILL)
            lost = 6 * (PROMPT + 1)
            eventually(lambda: spent_and_reserved(gateway, "bud_kill") == (before + lost, 0))
        own_engine.script = answer_chat
        gateway.await_serving()
        os.kill(gateway.worker_pid(0), signal.SIGKILL)
        eventually(lambda: gateway.ask(request(chat(max_tokens=50))).status == 200, ignoring=(OSError, EOFError))
        gateway.stop()
        spent_now = spent_and_reserved(gateway, "bud_kill")[0]
        assert spent_now == billed(gateway) >= before + lost
        gateway.start()
        gateway.await_serving()
        assert spent_and_reserved(gateway, "bud_kill") == (spent_now, 0)
        left = 10_000 - spent_now
        assert gateway.ask(request(chat(max_tokens=left))).error["code"] == "insufficient_quota"
        assert gateway.ask(request(chat(max_tokens=left - PROMPT))).status == 200


def test_budget_is_what_was_billed_however_often_workers_are_killed(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_gateway.workers = 2
    own_gateway.keys = {sha256(KEY): key_entry(budgets=[Budget("bud_kills", 100_000_000)])}
    with running(own_gateway) as gateway:
        stop = threading.Event()
        askers = [threading.Thread(target=ask_until, args=(gateway, stop)) for _ in range(6)]
        for asker in askers:
            asker.start()
        for round_ in range(6):
            told = len(gateway.records())
            eventually(lambda told=told: len(gateway.records()) > told + 20, 20)  # type: ignore[misc] # bound at once
            with suppress(FileNotFoundError, ValueError):
                os.kill(gateway.worker_pid(round_ % 2), signal.SIGKILL)
        stop.set()
        for asker in askers:
            asker.join(20)
        gateway.await_serving()
        assert gateway.log().count("usage.recovered") > 0
        gateway.stop()
        assert spent_and_reserved(gateway, "bud_kills")[0] == billed(gateway) > 0


def ask_until(gateway: Gateway, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError, EOFError), gateway.connect() as connection:
            while not stop.is_set():
                connection.send(request(chat(max_tokens=50)))
                connection.answer()


def test_place_of_a_worker_that_nobody_replaces_is_free(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.workers = 2
    own_gateway.tenants = {TENANT: wire.TenantEntry("acme", limits=Limits(concurrent_requests=1))}
    own_engine.script = Gate()
    with running(own_gateway) as gateway, streams(gateway, 1):
        own_engine.script = answer_chat
        assert gateway.ask(request(chat())).status == 429
        (busy,) = [index for index, status in enumerate(gateway.statuses()) if status.in_flight_total]
        gateway.kill_supervisor()
        os.kill(gateway.worker_pid(busy), signal.SIGKILL)
        eventually(lambda: asked_in_time(gateway) == 200, 20, ignoring=(OSError, EOFError))
        gateway.start()
        gateway.await_serving()


def asked_in_time(gateway: Gateway) -> int:
    """Of connections that wait for the dead worker's replacement none is answered."""
    with gateway.connect(0.5) as connection:
        connection.send(request(chat()))
        return connection.answer().status
