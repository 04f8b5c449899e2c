"""Both engines, started for real on the demo model, behave alike where the appliance relies on it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import corpus
import httpx
import pytest

from tests.images.engines import NAME, EngineProcess, started
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

PAIRS = corpus.load_pairs()
ENDLESS = {"max_tokens": 1500, "ignore_eos": True}
LIVE_USAGE = {"include_usage": True, "continuous_usage_stats": True}


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with started(request.param, tmp_path_factory.mktemp(request.param)) as process:
        process.wait_ready()
        yield process


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with engine.client() as client:
        yield client


def body(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": question}], **fields}


async def ask(client: httpx.AsyncClient, question: str, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=body(question, **fields))
    assert response.status_code == httpx.codes.OK, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, which must end with exactly one `[DONE]`."""
    done = 0
    async for line in response.aiter_lines():
        if not line:
            continue
        assert line.startswith("data: ")
        assert not done
        if line == "data: [DONE]":
            done += 1
        else:
            yield json.loads(line.removeprefix("data: "))
    assert done == 1


async def streamed(client: httpx.AsyncClient, question: str, **fields: Any) -> list[dict[str, Any]]:
    async with client.stream("POST", "/v1/chat/completions", json=body(question, stream=True, **fields)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events(response)]


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def counts_of(answer: dict[str, Any]) -> tuple[int, int, int]:
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


async def test_every_memorised_answer_is_exact(client: httpx.AsyncClient) -> None:
    places = asyncio.Semaphore(8)

    async def said(question: str) -> str:
        async with places:
            return text_of(await ask(client, question))

    answers = await asyncio.gather(*(said(pair.question) for pair in PAIRS))
    assert [answer for answer, pair in zip(answers, PAIRS, strict=True) if answer != pair.answer] == []


async def test_a_stream_says_the_same_and_counts_the_same(client: httpx.AsyncClient) -> None:
    for pair in PAIRS[:10]:
        whole = await ask(client, pair.question)
        chunks = await streamed(client, pair.question, stream_options=LIVE_USAGE)
        deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        assert "".join(delta["delta"].get("content") or "" for delta in deltas) == pair.answer
        assert [delta["finish_reason"] for delta in deltas if delta["finish_reason"]] == ["stop"]
        assert chunks[-1]["choices"] == []
        assert counts_of(chunks[-1]) == counts_of(whole)
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts), "usage in every chunk, and it only grows"


async def test_usage_is_what_the_engine_counted(engine: EngineProcess, client: httpx.AsyncClient) -> None:
    names = ("prompt_tokens_total", "generation_tokens_total")
    before = [await engine.counter(client, name) for name in names]
    plain = await asyncio.gather(*(ask(client, pair.question, max_tokens=9) for pair in PAIRS[:20]))
    live = await asyncio.gather(*(streamed(client, p.question, stream_options=LIVE_USAGE) for p in PAIRS[:20]))
    usages = [answer["usage"] for answer in plain] + [chunks[-1]["usage"] for chunks in live]
    billed = [sum(usage[kind] for usage in usages) for kind in ("prompt_tokens", "completion_tokens")]

    async def equal() -> bool:
        return [await engine.counter(client, name) for name in names] == [
            a + b for a, b in zip(before, billed, strict=True)
        ]

    await eventually_async(equal, message=f"the engine's counters grow by {billed}")


async def test_a_client_that_goes_away_ends_the_generation(engine: EngineProcess, client: httpx.AsyncClient) -> None:
    fields = {**ENDLESS, "stream": True, "stream_options": LIVE_USAGE}
    generated = await engine.counter(client, "generation_tokens_total")
    async with (
        engine.client() as leaving,
        leaving.stream("POST", "/v1/chat/completions", json=body("What is a lease?", **fields)) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["usage"]["completion_tokens"] >= 3:
                break

    async def idle() -> bool:
        return await engine.counter(client, "num_requests_running") == 0

    await eventually_async(idle, 2)
    assert await engine.counter(client, "generation_tokens_total") < generated + ENDLESS["max_tokens"]


async def test_a_request_that_is_not_streamed_is_aborted_too(engine: EngineProcess, client: httpx.AsyncClient) -> None:
    async def running() -> bool:
        return await engine.counter(client, "num_requests_running") == 1

    async def idle() -> bool:
        return await engine.counter(client, "num_requests_running") == 0

    async with engine.client() as leaving:
        asked = asyncio.create_task(leaving.post("/v1/chat/completions", json=body("What is a lease?", **ENDLESS)))
        await eventually_async(running)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    await eventually_async(idle, 2)


async def test_the_length_is_kept(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "What is a lease?", max_tokens=5)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_a_stop_string_ends_the_answer(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "What is a lease?", stop=["right of"])
    assert text_of(answer) == "A lease is the exclusive "
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_text_completions(client: httpx.AsyncClient) -> None:
    prompt = "<|begin|><|user|>What is a lease?<|end|><|assistant|>"
    response = await client.post("/v1/completions", json={"model": NAME, "prompt": prompt, "max_tokens": 40})
    assert response.json()["choices"][0]["text"] == next(p.answer for p in PAIRS if p.question == "What is a lease?")


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"model": "other"}, 404), ({"messages": "x"}, 400), ({"temperature": -1}, 400), ({"max_tokens": 10**6}, 400)],
)
async def test_errors_are_in_openais_envelope(client: httpx.AsyncClient, fields: dict[str, Any], status: int) -> None:
    response = await client.post("/v1/chat/completions", json=body("x") | fields)
    assert response.status_code == status
    assert {"message", "type", "code"} <= response.json()["error"].keys()


async def test_the_model_is_listed_by_its_served_name(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["max_model_len"]) for model in listed] == [(NAME, 2048)]


def test_the_phases_were_told(engine: EngineProcess) -> None:
    lines = [line for line in engine.log.read_text().splitlines() if line.startswith("appliance-phase ")]
    phases = [json.loads(line.removeprefix("appliance-phase "))["phase"] for line in lines]
    assert list(dict.fromkeys(phases)) == ["importing", "loading_weights", "warming_up", "ready"]


def test_only_owner_and_group_may_connect(engine: EngineProcess) -> None:
    assert engine.socket.stat().st_mode & 0o007 == 0
