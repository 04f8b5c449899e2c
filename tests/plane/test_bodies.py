"""What of a body reaches an engine: what was understood, completed where the caller set nothing, and no more."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.gateway.plane import wire
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.guards import MAX_DEPTH, REFUSED, nesting
from appliance.gateway.plane.prepared import Prepared
from tests.plane.bodies import outcome, refusal, sent
from tests.plane.parts import chat, principal, request, shard, shared_request, tables

TEXTS = st.text(max_size=100).map(lambda text: f'{{"model":"m","x":"{text}"}}'.encode("utf-8", "surrogatepass"))
KEYS = st.text('abc\\"{[é\u2028', max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('abc\\"{[é\u2028', max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "n",
        "max_tokens",
        "stream",
        "temperature",
        "stop",
        "cache_salt",
        "x",
        *sorted(REFUSED),
    ]
)
CEILING = shard(defaults=wire.SamplingDefaults(max_tokens_ceiling=50))


def test_service_is_the_one_that_the_body_names() -> None:
    of = tables(shard("a"), shard("b", aliases=["gpt"]), shard("c", "other"))
    asked = shared_request(of, principal())
    assert sent(asked, chat(model="gpt"))["model"] == "b-model"
    assert asked.service.shard.id == "svc_acme_b"
    for model, told in (("c-model", (404, "model_not_found")), (None, (400, "model_required"))):
        found = refusal(shared_request(of, principal()), chat(model=model))
        assert (found.status, found.code) == told


def test_body_is_too_large_for_its_service_though_not_for_the_listener() -> None:
    of = tables(shard("a", max_body_bytes=100))
    found = refusal(shared_request(of, principal()), chat(model="a", user="x" * 100))
    assert (found.status, found.code) == (413, "request_too_large")


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.sampled_from(["a", "b", "a-model", "c"]))
@example([("model", "b"), ("model", "a")], "a")
def test_member_that_comes_twice_is_understood_as_it_is_forwarded(pairs: list[tuple[str, Any]], model: str) -> None:
    body = b"{" + b",".join(b"%b:%b" % (_json(name), _json(value)) for name, value in [*pairs, ("model", model)]) + b"}"
    of = tables(shard("a"), shard("b"), shard("c", "other"))
    asked = shared_request(of, principal())
    prepared = outcome(asked, body)
    if not isinstance(prepared, Prepared):
        assert prepared in (400, 404)
        return
    seen = json.loads(prepared.body)
    outermost = json.loads(prepared.body, object_pairs_hook=list)
    assert sorted(name for name, _ in outermost) == sorted(seen), "a member twice"
    assert asked.service.shard.name == model[0]
    assert seen["model"] == asked.service.shard.served_model
    assert REFUSED.isdisjoint(seen)
    expected = dict(pairs)
    assert {name: seen[name] for name in expected if name != "model"} == {
        name: value for name, value in expected.items() if name != "model"
    }


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: f'{{"model":"m","x":"{text}"}}'.encode("utf-8", "surrogatepass"))
)
@example(b'\xef\xbb\xbf{"messages":[]}')
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"\\udc00\\ud800"}')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":NaN}')
@example(b'{"a":-Infinity}')
@example(b'{"a":01}')
@example(b'{"a":1}{"b":2}')
@example(b'{"a":1}\x00')
@example(b'{"a":"\x00"}')
@example(b"{'a':1}")
@example(b'{"a":1,}')
@example(b'{"a":1e999}')
@example(b'{"a":/**/1}')
def test_whatever_comes_is_refused_or_forwarded_as_strict_json(body: bytes) -> None:
    prepared = outcome(request(shard(served_model="m")), body)
    if not isinstance(prepared, Prepared):
        assert prepared in (400, 404)
        return
    text = prepared.body.decode()
    seen = json.loads(text, parse_constant=pytest.fail)
    text.encode("utf-8")
    for name, value in json.loads(body.decode(), parse_constant=pytest.fail).items():
        assert seen[name] == value or name == "model"


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 1000, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(depth: int, brackets: tuple[bytes, bytes]) -> None:
    value = brackets[0] * depth + b"1" + brackets[1] * depth
    body = b'{"model":"chat","x":' + value + b"}"
    if depth < MAX_DEPTH:
        assert sent(request(shard()), body)["model"] == "chat-model"
    else:
        assert "nested" in refusal(request(shard()), body).message or depth > 1000


def test_brackets_in_strings_nest_nothing() -> None:
    text = '[{"\\' * 5000
    assert sent(request(shard()), chat(user=text, x=[[]] * 100))["user"] == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[' + b"[]," * 500_000 + b"[]]}",
        b'{"x":[' + b'"",' * 500_000 + b'""]}',
        b"{" + b",".join(b'"%d":1' % number for number in range(300_000)) + b"}",
        b'{"x":[' + b"{}," * 500_000 + b"{}]}",
    ],
    ids=["arrays", "strings", "members", "objects"],
)
def test_body_that_costs_more_than_its_length_is_refused_before_it_is_taken_apart(body: bytes) -> None:
    assert "more than" in refusal(request(shard()), body).message


@pytest.mark.parametrize(
    ("path", "members", "told"),
    [
        ("chat/completions", {"max_tokens": 51}, "max_tokens"),
        ("chat/completions", {"max_completion_tokens": 51, "max_tokens": 1}, "max_completion_tokens"),
        ("chat/completions", {"max_completion_tokens": 0}, "max_completion_tokens"),
        ("chat/completions", {"max_tokens": -1}, "max_tokens"),
        ("chat/completions", {"max_tokens": 10**30}, "max_tokens"),
        ("chat/completions", {"max_tokens": 5.5}, "max_tokens"),
        ("chat/completions", {"max_tokens": True}, "max_tokens"),
        ("completions", {"max_tokens": -1}, "max_tokens"),
        ("completions", {"prompt_logprobs": -1}, "prompt_logprobs"),
        ("completions", {"logprobs": -1}, "logprobs"),
        ("completions", {"logprobs": 21}, "logprobs"),
        ("chat/completions", {"top_logprobs": -1}, "top_logprobs"),
        ("embeddings", {"priority": 1}, "priority"),
        ("chat/completions", {"request_id": "x"}, "request_id"),
    ],
)
def test_bounds_of_members(path: str, members: dict[str, Any], told: str) -> None:
    found = refusal(request(CEILING, path=f"/v1/{path}"), chat(**members))
    assert (found.status, found.code, found.param) == (400, "invalid_value", told)


@pytest.mark.parametrize(
    ("path", "members", "limit", "tokens"),
    [
        ("chat/completions", {}, 50, 50),
        ("chat/completions", {"max_tokens": None}, 50, 50),
        ("chat/completions", {"max_tokens": 7, "n": 3}, 7, 21),
        ("completions", {"max_completion_tokens": 5}, 50, 50),
        ("completions", {"max_tokens": 0, "echo": True}, 0, 0),
        ("completions", {"prompt": ["a", "b"]}, 50, 100),
        ("completions", {"prompt": [1, 2]}, 50, 50),
        ("completions", {"prompt": [[1], [2], [3]]}, 50, 150),
        ("completions", {"prompt": []}, 50, 50),
    ],
)
def test_ceiling_is_inserted_only_where_the_caller_set_none(
    path: str, members: dict[str, Any], limit: int, tokens: int
) -> None:
    prepared = prepare(request(CEILING, path=f"/v1/{path}"), chat(**members))
    assert prepared is not None
    assert json.loads(prepared.body)["max_tokens"] == limit
    assert prepared.token_limit == tokens


# The tenant's salt and class


def test_salt_and_priority_are_those_of_the_keys_tenant() -> None:
    service = shard(cache_salt="owner's", priorities=True, shared_with=["ten_other", "ten_third"])
    entries = {
        "acme": (wire.TenantEntry("acme", priority="low"), "owner's", 1),
        "other": (wire.TenantEntry("other", priority="high", cache_salt="other's"), "other's", -1),
        "third": (wire.TenantEntry("third"), None, None),
    }
    salts = set()
    for tenant, (entry, salt, priority) in entries.items():
        seen = sent(request(service, principal(tenant, entry)), chat(cache_salt="owner's"))
        salts.add(seen["cache_salt"])
        assert salt is None or seen["cache_salt"] == salt
        assert seen.get("priority") == priority
    assert len(salts) == 3


def test_engine_that_knows_no_salt_or_priority_gets_none() -> None:
    entry = wire.TenantEntry("acme", priority="high", cache_salt="salt")
    seen = sent(request(shard(), principal(entry=entry)), chat())
    assert "cache_salt" not in seen
    assert "priority" not in seen


@given(st.floats())
def test_numbers_that_json_has_not_are_refused(number: float) -> None:
    body = b'{"temperature":%b}' % json.dumps(number).encode()
    if math.isfinite(number):
        assert sent(request(shard()), body)["temperature"] == number
    else:
        assert refusal(request(shard()), body).status == 400


BRACKETS = st.text('[]{}"\\a', max_size=6)
NESTED = st.recursive(
    BRACKETS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BRACKETS, inner, max_size=2)
)


@given(NESTED)
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any) -> None:
    def depth(of: Any) -> int:
        inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert nesting(json.dumps(value).encode()) == depth(value)
