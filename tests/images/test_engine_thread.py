import asyncio
from dataclasses import dataclass

import pytest
from transformers_engine.engine import Engine
from transformers_engine.metrics import Metrics
from transformers_engine.scheduler import Bounds, Scheduler
from transformers_engine.sequence import Delta, Sequence

from tests.images.fakes import FakePrefill, FakeRunner, sequence
from tests.support.waiting import eventually_async

BOUNDS = Bounds(concurrency=8, prefill_tokens=1000, kv_tokens=100_000)


@dataclass
class BrokenRunner(FakeRunner):
    def decode(self, sequences: list[Sequence]) -> list[int]:  # noqa: ARG002
        raise RuntimeError("the device is gone")


def engine(runner: FakeRunner, metrics: Metrics, deaths: list[str]) -> Engine[FakePrefill]:
    return Engine(Scheduler(runner, BOUNDS), metrics, on_death=lambda: deaths.append("dead"))


async def test_results_arrive_on_the_loop_and_are_counted() -> None:
    metrics, told = Metrics("m"), []
    finished = asyncio.Event()

    def sink(delta: Delta) -> None:
        told.append(delta.text)
        if delta.finish_reason is not None:
            finished.set()

    subject = engine(FakeRunner({"s": "hello"}), metrics, [])
    subject.submit(sequence(prompt=7, max_tokens=20, sink=sink))
    async with asyncio.timeout(10):
        await finished.wait()
    assert "".join(told) == "hello"
    page = metrics.render().decode()
    assert 'engine:prompt_tokens_total{model_name="m"} 7.0' in page
    assert 'engine:generation_tokens_total{model_name="m"} 6.0' in page
    assert 'engine:request_success_total{finished_reason="stop",model_name="m"} 1.0' in page
    assert 'engine:time_to_first_token_seconds_count{model_name="m"} 1.0' in page
    assert subject.stop(10)
    assert not subject.alive


async def test_an_abort_ends_an_endless_answer() -> None:
    metrics, endless = Metrics("m"), sequence(max_tokens=10**9)
    subject = engine(FakeRunner({"s": "x" * 10**6}), metrics, [])
    subject.submit(endless)
    endless.aborted = True

    async def aborted() -> bool:
        return 'finished_reason="abort",model_name="m"} 1.0' in metrics.render().decode()

    await eventually_async(aborted)
    assert 'engine:num_requests_running{model_name="m"} 0.0' in metrics.render().decode()
    assert subject.stop(10)


async def test_a_failure_is_told_to_everyone_and_is_final(caplog: pytest.LogCaptureFixture) -> None:
    deaths: list[str] = []
    told: list[Delta] = []
    subject = engine(BrokenRunner(), Metrics("m"), deaths)
    subject.submit(sequence("a", sink=told.append))

    async def dead() -> bool:
        return deaths == ["dead"] and not subject.alive

    await eventually_async(dead)
    assert [delta.error is not None for delta in told][-1]
    assert "the device is gone" in caplog.text
