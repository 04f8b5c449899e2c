"""Who is let through by limits of requests and tokens, who is not, and what both are told."""

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, Kind
from appliance.gateway.plane.schemas.limits import Budget, Limits
from tests.plane import parts
from tests.plane.limits.workers import PROMPT, Node, fields, refused

MINUTE_MS = 60_000


def test_without_limits_nothing_is_counted_or_told(node: Node) -> None:
    node.apply()
    request = node.request()
    assert node.limiters[0].acquire(request) is None
    assert request.answer_headers == b""
    assert not node.limiters[0].active


def test_limit_of_another_key_is_no_limit_of_this_one(node: Node) -> None:
    node.key["limits"] = Limits(requests_per_minute=1)
    node.apply()
    request = node.request()
    request.key = wire.KeyEntry("key_other", "ten_acme")
    assert node.limiters[0].active
    assert node.limiters[0].acquire(request) is None


@pytest.mark.parametrize("whose", ["key", "service", "tenant"])
def test_requests_of_all_workers_count_and_the_minute_slides(node: Node, whose: str) -> None:
    getattr(node, whose)["limits"] = Limits(requests_per_minute=4)
    node.apply()
    node.now_ms += 30_000
    for number in range(4):
        node.acquire(number % 2).settle(1, 1)
    refusal = refused(node)
    assert (refusal.code, refusal.kind) == ("rate_limit_exceeded", "requests")
    assert f"limit of this {'API key' if whose == 'key' else whose} is 4 requests per minute" in refusal.message
    assert fields(refusal.headers) == {
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m30s",
        "retry-after": "45",
    }
    node.now_ms += 44_000
    refused(node, 1)
    node.now_ms += 1_000
    node.acquire(1).settle(1, 1)
    refused(node)


def test_answers_tell_the_tightest_limit_of_each_kind(node: Node) -> None:
    node.key["limits"] = Limits(requests_per_minute=100, tokens_per_minute=1000)
    node.service["limits"] = Limits(requests_per_minute=10)
    node.tenant["limits"] = Limits(requests_per_minute=50, tokens_per_minute=500)
    node.apply()
    node.acquire(max_tokens=100).settle(10, 40)
    request = node.request(1, parts.chat(max_tokens=100))
    node.limiters[1].acquire(request)
    assert fields(request.answer_headers) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "2m0s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": str(500 - 50 - PROMPT - 100),
        "x-ratelimit-reset-tokens": "2m0s",
    }


def test_tokens_are_reserved_until_what_was_used_is_known(node: Node) -> None:
    node.tenant["limits"] = Limits(tokens_per_minute=300)
    node.apply()
    first = node.acquire(0, max_tokens=200)
    refusal = refused(node, 1, max_tokens=200)
    assert (refusal.code, refusal.kind) == ("rate_limit_exceeded", "tokens")
    assert f"{300 - 200 - PROMPT} are left" in refusal.message
    assert fields(refusal.headers)["x-ratelimit-remaining-tokens"] == str(300 - 200 - PROMPT)
    assert fields(refusal.headers)["retry-after"] == "1", "a running request may end at any time"
    first.settle(PROMPT, 20)
    second = node.acquire(1, max_tokens=200)
    second.settle(PROMPT, 200)
    refusal = refused(node, 0, max_tokens=200)
    # 238 of 300 were used in the first instant of a minute; 209 are needed: at most 91 may remain of them.
    assert fields(refusal.headers)["retry-after"] == str(60 + 38)


def test_request_that_never_fits_is_told_so(node: Node) -> None:
    node.tenant["limits"] = Limits(tokens_per_minute=300)
    node.apply()
    refusal = refused(node, max_tokens=300)
    assert f"may need {300 + PROMPT}" in refusal.message
    assert "retry-after" not in fields(refusal.headers)
    assert fields(refusal.headers)["x-should-retry"] == "false"


def test_answer_without_a_limit_is_let_in_where_a_short_one_fits(node: Node) -> None:
    node.tenant["limits"] = Limits(tokens_per_minute=300)
    node.apply()
    grant = node.acquire()
    refused(node, 1)
    grant.settle(PROMPT, 5000)
    node.now_ms += 2 * MINUTE_MS
    node.tenant["limits"] = Limits(tokens_per_minute=10_000)
    node.apply()
    node.acquire()
    request = node.request()
    node.limiters[0].acquire(request)
    assert fields(request.answer_headers)["x-ratelimit-remaining-tokens"] == str(10_000 - 2 * (1024 + PROMPT))


def test_concurrent_requests_count_until_they_end(node: Node) -> None:
    node.service["limits"] = Limits(concurrent_requests=2)
    node.apply()
    grants = [node.acquire(0), node.acquire(1)]
    refusal = refused(node)
    assert (refusal.code, refusal.kind) == ("rate_limit_exceeded", "concurrent_requests")
    assert "2 requests at the same time" in refusal.message
    assert fields(refusal.headers) == {"retry-after": "1"}
    grants[1].release()
    grants[1].release()
    node.acquire(1)
    refused(node)


def test_head_alone_is_refused_by_what_no_body_could_pass(node: Node) -> None:
    node.key["limits"] = Limits(requests_per_minute=2, tokens_per_minute=500)
    node.tenant["budgets"] = [Budget("bud_1", 1000)]
    node.apply()
    request = node.request()
    for _ in range(5):
        node.limiters[0].check(request)
    node.acquire(max_tokens=10).settle(PROMPT, 10)
    node.limiters[1].check(request)
    node.acquire(max_tokens=10).settle(PROMPT, 10)
    with pytest.raises(Refusal, match="2 requests per minute"):
        node.limiters[1].check(request)
    node.now_ms += 2 * MINUTE_MS
    node.acquire(max_tokens=10).settle(PROMPT, 1000)
    with pytest.raises(Refusal, match="budget") as caught:
        node.limiters[1].check(request)
    assert caught.value.code == "insufficient_quota"


def test_changed_limit_is_in_force_at_once_and_forgets_nothing(node: Node) -> None:
    node.key["limits"] = Limits(requests_per_minute=10)
    node.apply()
    for _ in range(5):
        node.acquire().settle(1, 1)
    node.key["limits"] = Limits(requests_per_minute=5)
    node.apply()
    refused(node)
    node.key["limits"] = Limits()
    node.apply()
    assert node.limiters[0].acquire(node.request()) is None


def test_limit_taken_away_while_requests_run_leaves_nothing_behind(node: Node) -> None:
    node.key["limits"] = Limits(concurrent_requests=1, tokens_per_minute=5000)
    node.apply()
    grant = node.acquire()
    node.key["limits"] = Limits()
    node.apply()
    node.counters[0].sweep()
    grant.settle(5, 5)
    node.counters[0].sweep()
    counter = node.counters[0].claim(Kind.RATE, "API key key_acme")
    assert (counter.own(HELD_REQUESTS), counter.own(HELD_TOKENS)) == (0, 0)
