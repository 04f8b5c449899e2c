"""What only our own engine promises: batching that changes no answer, and an orderly life of its process."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.images.engines import EngineProcess, demo_model, started
from tests.images.test_engines import ENDLESS, LIVE_USAGE, PAIRS, ask, body, text_of
from tests.support.waiting import eventually, eventually_async

pytestmark = [pytest.mark.engine, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with started("transformers", tmp_path_factory.mktemp("transformers")) as process:
        process.wait_ready()
        yield process


async def test_neighbours_change_no_answer(tmp_path: Path) -> None:
    """Prompts of different lengths, run far beyond their ends so that rows join and leave at all times.

    In float32: what a model of bfloat16 says where it knows nothing hangs on near ties, which the rounding of another
    batch size decides, in every engine. Its memorised answers do not (`test_every_memorised_answer_is_exact`).
    """
    questions = [pair.question * (1 + n % 4) for n, pair in enumerate(PAIRS[:24])]
    fields = [{"max_tokens": 20 + 7 * (n % 9), "ignore_eos": True} for n in range(24)]
    with started("transformers", tmp_path, args=("--dtype=float32", "--max-prefill-tokens=64")) as engine:
        engine.wait_ready()
        async with engine.client() as client:
            alone = [text_of(await ask(client, q, **f)) for q, f in zip(questions, fields, strict=True)]
            answers = await asyncio.gather(*(ask(client, q, **f) for q, f in zip(questions, fields, strict=True)))
    assert [text_of(answer) for answer in answers] == alone


@pytest.mark.alone
async def test_eight_together_are_much_faster_than_one_by_one(engine: EngineProcess) -> None:
    async with engine.client() as client:
        fields: dict[str, Any] = {"max_tokens": 80, "ignore_eos": True}
        await ask(client, "warm up", **fields)
        serial, together = [], []
        for _ in range(2):  # the best of each: other work on the machine only ever adds
            began = time.monotonic()
            for pair in PAIRS[:8]:
                await ask(client, pair.question, **fields)
            serial.append(time.monotonic() - began)
            began = time.monotonic()
            await asyncio.gather(*(ask(client, pair.question, **fields) for pair in PAIRS[:8]))
            together.append(time.monotonic() - began)
    assert min(together) < min(serial) / 2, f"one by one {serial} s, together {together} s"


async def test_the_same_seed_samples_the_same_whatever_runs_beside(engine: EngineProcess) -> None:
    wild: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "max_tokens": 40, "ignore_eos": True}
    async with engine.client() as client:
        alone = text_of(await ask(client, "What is a node?", seed=11, **wild))
        answers = await asyncio.gather(
            *(ask(client, "What is a node?", seed=seed, **wild) for seed in (10, 11, 12)),
            ask(client, "What is a node?", **wild),
        )
    together = [text_of(answer) for answer in answers]
    assert together[1] == alone
    assert len(set(together)) == 4


async def test_penalties_and_restrictions_are_taken(engine: EngineProcess) -> None:
    async with engine.client() as client:
        plain = await ask(client, "What is a node?", max_tokens=60, ignore_eos=True)
        punished = await ask(
            client, "What is a node?", max_tokens=60, ignore_eos=True, repetition_penalty=1.9, frequency_penalty=1.5,
            presence_penalty=1.0, min_p=0.05, top_p=0.9, top_k=0, seed=1,
        )  # fmt: skip
    assert text_of(punished) != text_of(plain)


@pytest.mark.parametrize("field", ["chat_template", "tools", "logprobs", "n", "no_such_field"])
async def test_what_is_not_supported_is_refused(engine: EngineProcess, field: str) -> None:
    async with engine.client() as client:
        response = await client.post("/v1/chat/completions", json=body("x", **{field: [{"type": "function"}]}))
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert response.json()["error"]["param"] == field


async def test_other_paths_and_methods_have_the_envelope_too(engine: EngineProcess) -> None:
    async with engine.client() as client:
        for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)):
            response = await client.request(method, path)
            assert response.status_code == status
            assert response.json()["error"]["message"]


async def test_a_body_without_end_is_cut_off(engine: EngineProcess) -> None:
    async with engine.client() as client:
        response = await client.post("/v1/completions", content=b" " * (17 * 1024 * 1024))
    assert response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE


async def test_sigterm_lets_running_requests_finish(tmp_path: Path) -> None:
    with started("transformers", tmp_path) as engine:
        engine.wait_ready()
        async with engine.client() as client:
            fields = {**ENDLESS, "max_tokens": 400, "stream": True, "stream_options": LIVE_USAGE}
            async with client.stream("POST", "/v1/chat/completions", json=body("What is a pod?", **fields)) as response:
                lines = response.aiter_lines()
                await anext(lines)
                engine.process.send_signal(signal.SIGTERM)
                rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 400
        assert engine.process.wait(10) == 0
        assert not engine.socket.exists()


async def test_sigterm_cuts_what_outlasts_the_grace_time(tmp_path: Path) -> None:
    with started("transformers", tmp_path, args=("--shutdown-timeout=0",)) as engine:
        engine.wait_ready()
        async with engine.client() as client:
            fields = {**ENDLESS, "stream": True}
            async with client.stream("POST", "/v1/chat/completions", json=body("What is a pod?", **fields)) as response:
                lines = response.aiter_lines()
                await anext(lines)
                engine.process.send_signal(signal.SIGTERM)
                with pytest.raises(httpx.RemoteProtocolError):
                    assert "data: [DONE]" not in [line async for line in lines]
        assert engine.process.wait(10) == 0


def test_it_tells_that_it_is_loading_and_can_be_stopped_meanwhile(tmp_path: Path) -> None:
    with started("transformers", tmp_path) as engine:
        status = eventually(engine.health, 60, ignoring=(OSError,))
        assert status == httpx.codes.SERVICE_UNAVAILABLE
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(10) == 0


@pytest.mark.parametrize("damage", ["weights", "config", "quantised"])
def test_a_model_that_cannot_be_served_ends_it_with_the_reason(tmp_path: Path, damage: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in demo_model().iterdir():
        shutil.copyfile(file, model / file.name)
    broken = model / ("model.safetensors" if damage == "weights" else "config.json")
    content = broken.read_bytes()
    broken.unlink()
    if damage == "weights":
        broken.write_bytes(content[: len(content) // 2])
    elif damage == "config":
        broken.write_bytes(b"{")
    else:
        broken.write_text(json.dumps(json.loads(content) | {"quantization_config": {"quant_method": "awq"}}))
    with started("transformers", tmp_path, model=model) as engine:
        assert engine.process.wait(60) == 1
        failed = [line for line in engine.log.read_text().splitlines() if '"phase": "failed"' in line]
        assert json.loads(failed[0].removeprefix("appliance-phase "))["reason"]


async def test_a_short_context_is_enforced(tmp_path: Path) -> None:
    with started("transformers", tmp_path, args=("--max-model-len=32", "--no-batching")) as engine:
        engine.wait_ready()
        async with engine.client() as client:
            response = await client.post("/v1/chat/completions", json=body("word " * 40))
            assert response.json()["error"]["code"] == "context_length_exceeded"
            answer = await ask(client, "What is a node?", ignore_eos=True)
            assert answer["usage"]["total_tokens"] == 32

            async def idle() -> bool:
                return await engine.counter(client, "num_requests_running") == 0

            await eventually_async(idle)
