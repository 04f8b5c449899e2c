import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from transformers_engine.errors import ContextLengthExceeded, EngineError, InvalidRequest
from transformers_engine.generation import Generation, ModelFacts, limits_of, sampling_of
from transformers_engine.sampling import Sampling, model_defaults
from transformers_engine.schemas import ChatRequest, CompletionRequest, Message
from transformers_engine.sequence import Delta, FinishReason

MODEL = ModelFacts(
    name="m", max_model_len=100, vocabulary=50, end_tokens=frozenset({2}), sampling=Sampling(top_k=1, top_p=0.5)
)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(messages=[Message(role="user", content="x")], **fields)


def test_the_caller_overrides_the_model_and_the_model_the_neutral() -> None:
    sampling = sampling_of(chat(top_p=0.9, seed=7), MODEL)
    assert (sampling.top_p, sampling.top_k, sampling.temperature, sampling.seed) == (0.9, 1, 1.0, 7)


def test_minus_one_is_the_whole_vocabulary() -> None:
    assert sampling_of(chat(top_k=-1), MODEL).top_k == 0


@pytest.mark.parametrize(("fields", "greedy"), [({"temperature": 0.0}, True), ({"top_k": 1}, True), ({}, False)])
def test_greedy(fields: dict[str, Any], *, greedy: bool) -> None:
    assert Sampling(**fields).greedy is greedy


def test_defaults_come_from_the_model_folder(tmp_path: Path) -> None:
    assert model_defaults(tmp_path) == Sampling()
    document = {"temperature": 0.6, "top_k": None, "do_sample": False, "max_new_tokens": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps(document))
    assert model_defaults(tmp_path) == Sampling(temperature=0.6)


def test_a_chat_may_fill_the_context_and_a_completion_has_a_default() -> None:
    assert limits_of(chat(), [1] * 40, MODEL).max_tokens == 60
    assert limits_of(CompletionRequest(prompt="x"), [1] * 40, MODEL).max_tokens == 16
    assert limits_of(CompletionRequest(prompt="x"), [1] * 95, MODEL).max_tokens == 5


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert limits_of(chat(max_tokens=9, max_completion_tokens=3), [1], MODEL).max_tokens == 3


@pytest.mark.parametrize(("length", "asked"), [(100, None), (101, None), (90, 11)])
def test_what_does_not_fit_is_refused_with_the_numbers(length: int, asked: int | None) -> None:
    with pytest.raises(ContextLengthExceeded, match=str(length)):
        limits_of(chat(max_tokens=asked), [1] * length, MODEL)


def test_prompts_without_or_with_unknown_tokens_are_refused() -> None:
    for prompt in ([], [50]):
        with pytest.raises(InvalidRequest):
            limits_of(CompletionRequest(prompt=prompt), prompt, MODEL)


def test_end_tokens_and_stop_tokens() -> None:
    assert limits_of(chat(stop_token_ids=[9]), [1], MODEL).stop_token_ids == {2, 9}
    assert limits_of(chat(stop_token_ids=[9], ignore_eos=True), [1], MODEL).stop_token_ids == {9}


async def test_steps_that_come_together_are_merged() -> None:
    generation = Generation()
    generation.feed(Delta("a", 1))
    generation.feed(Delta("b", 2))
    assert await generation.next() == Delta("ab", 2)
    waiting = asyncio.ensure_future(generation.next())
    generation.feed(Delta("c", 3, FinishReason.STOP))
    assert await waiting == Delta("c", 3, FinishReason.STOP)


async def test_a_failure_of_the_engine_is_raised() -> None:
    generation = Generation()
    generation.feed(Delta("", 1, error="broken"))
    with pytest.raises(EngineError, match="broken"):
        await generation.next()
