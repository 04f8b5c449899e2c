"""The control plane asks engines that may lie, stall or never stop talking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.services.engine import LONGEST_ANSWER, Engine, EngineTrouble, ProbeUsage, counter_total
from appliance.services.phases import MARK, parse
from tests.services.engines import FakeEngine, Manners


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
async def fake(home: Path, manners: Manners) -> AsyncIterator[FakeEngine]:
    fake = FakeEngine(home / "engine.sock", manners)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def engine(home: Path, fake: FakeEngine) -> Engine:
    return Engine(home / "engine.sock", timeout_s=1)


async def test_a_token_is_counted(engine: Engine) -> None:
    assert await engine.is_healthy("/health")
    assert await engine.one_token("tiny") == ProbeUsage(1, 1)


async def test_an_endless_answer_is_cut(engine: Engine, fake: FakeEngine, manners: Manners) -> None:
    manners.completion = b"x" * (64 * LONGEST_ANSWER)
    with pytest.raises(EngineTrouble, match="longer than"):
        await engine.one_token("tiny")
    assert fake.bytes_sent < 8 * LONGEST_ANSWER


async def test_an_answer_that_drips_is_given_up(engine: Engine, manners: Manners) -> None:
    manners.chunk_pause_s = 0.1
    async with asyncio.timeout(5):
        with pytest.raises(EngineTrouble, match="did not answer within 1 s"):
            await engine.one_token("tiny")


async def test_a_link_in_place_of_the_socket_is_not_followed(home: Path, engine: Engine) -> None:
    (home / "link.sock").symlink_to(home / "engine.sock")
    assert await engine.is_healthy("/health")
    assert not await Engine(home / "link.sock", timeout_s=1).is_healthy("/health")


async def test_what_is_not_there_is_not_healthy(home: Path) -> None:
    assert not await Engine(home / "engine.sock", timeout_s=1).is_healthy("/health")


async def test_a_refusal_is_quoted_in_one_short_line(engine: Engine, manners: Manners) -> None:
    manners.status, manners.completion = 500, b"no\n\0 memory" + b"!" * 10_000
    with pytest.raises(EngineTrouble, match="the engine answered 500: no memory!") as caught:
        await engine.one_token("tiny")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("exposition", "total"),
    [
        ("", None),
        ("tokens 3\n", 3.0),
        ('tokens{model="a b"} 1\ntokens{model="}"} 2 1700000000\n', 3.0),
        ("tokens_other 5\n# tokens 7\n", None),
        ("tokens many\ntokens\ntokens \n", None),
    ],
)
def test_counters_are_summed(exposition: str, total: float | None) -> None:
    assert counter_total(exposition, "tokens") == total


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "7", '{"phase": "unknown"}', "null"])
def test_a_line_that_tells_no_phase_is_only_a_line(text: str) -> None:
    assert parse(f"{MARK}{text}") is None


def test_what_json_cannot_hold_is_left_out_of_a_phase() -> None:
    told = parse(MARK + '{"phase": "loading_weights", "seconds": 1.5, "rate": NaN, "left": Infinity, "who": "x"}')
    assert told is not None
    assert told[2] == {"seconds": 1.5}
