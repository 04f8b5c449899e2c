import json
from typing import Any

import pytest
from transformers_engine.errors import InvalidRequest
from transformers_engine.schemas import ChatRequest, CompletionRequest, parse

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"messages": HELLO} | fields).encode(), ChatRequest)


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


def test_what_is_not_set_is_none() -> None:
    request = chat()
    assert request.temperature is None
    assert request.seed is None
    assert request.stops() == ()


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = chat(messages=[{"role": "user", "content": parts, "name": None}])
    assert request.messages[0].for_template() == {"role": "user", "content": "a\nb"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1), ("logprobs", False), ("tools", []), ("response_format", {"type": "text"}), ("logit_bias", {}),
        ("user", "someone"), ("cache_salt", "salt"), ("metadata", {"a": "b"}), ("stop", None), ("seed", None),
    ],
)  # fmt: skip
def test_what_client_libraries_send_along_is_taken(field: str, value: Any) -> None:
    chat(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("n", True), ("logprobs", True), ("top_logprobs", 3), ("logit_bias", {"5": 1}),
        ("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"}),
        ("chat_template", "{{ 1 }}"), ("chat_template_kwargs", {"a": 1}), ("mm_processor_kwargs", {}),
        ("documents", []), ("guided_json", {}), ("no_such_thing", 1), ("add_generation_prompt", False),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert error.param == field
    assert field in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", "hot"), ("top_p", 0), ("top_p", 1.5), ("top_k", -2), ("min_p", 2),
        ("repetition_penalty", 0), ("presence_penalty", 3), ("max_tokens", 0), ("max_completion_tokens", -1),
        ("seed", 2**63), ("stream", "yes"), ("stop", [""]), ("stop", ["x"] * 17), ("stop", 3),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field


def test_infinite_numbers_are_not_json() -> None:
    with pytest.raises(InvalidRequest):
        parse(b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', ChatRequest)


@pytest.mark.parametrize(
    "messages",
    [
        [], "hello", [{"role": "user"}], [{"role": "robot", "content": "x"}], [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}],
    ],
)  # fmt: skip
def test_messages_that_are_not_understood_are_refused(messages: Any) -> None:
    refused(messages=messages)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=repr)
def test_bodies_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(body, ChatRequest)


@pytest.mark.parametrize(("prompt", "single"), [("a", "a"), (["a"], "a"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2])])
def test_one_prompt_in_each_of_its_forms(prompt: Any, single: Any) -> None:
    assert parse(json.dumps({"prompt": prompt}).encode(), CompletionRequest).single_prompt() == single


@pytest.mark.parametrize("prompt", [["a", "b"], [], [[1], [2]], [1, "a"], [-1], [True], 5])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        parse(json.dumps({"prompt": prompt}).encode(), CompletionRequest).single_prompt()
