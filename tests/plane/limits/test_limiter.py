"""Who is let through, who is not, and what both are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits.grant import Grant
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, Kind
from appliance.gateway.plane.schemas.limits import Budget, Limits
from tests.plane import parts
from tests.plane.limits.workers import PROMPT, Node

MINUTE_MS = 60_000
MIDNIGHT = 1_700_006_400.0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, workers=2)


def fields(headers: bytes) -> dict[str, str]:
    lines = headers.decode().split("\r\n")
    assert lines.pop() == ""
    return dict(line.split(": ") for line in lines)


def refused(node: Node, worker: int = 0, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        node.acquire(worker, **members)
    assert caught.value.status == 429
    return caught.value


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


def budget(tokens: int, **members: Any) -> list[Budget]:
    return [Budget("bud_1", tokens, **members)]


def test_budget_is_reserved_settled_and_then_spent(node: Node) -> None:
    node.tenant["budgets"] = budget(500)
    node.apply()
    first = node.acquire(0, max_tokens=300)
    refusal = refused(node, 1, max_tokens=300)
    assert (refusal.code, refusal.kind) == ("insufficient_quota", "insufficient_quota")
    assert f"500 tokens, of which {500 - 300 - PROMPT}" in refusal.message
    assert fields(refusal.headers) == {"x-should-retry": "false"}
    first.settle(10, 90)
    node.acquire(1, max_tokens=300).settle(10, 290)
    node.acquire(1, max_tokens=100 - PROMPT).release()
    refused(node, 0, max_tokens=101 - PROMPT)


def test_settled_twice_counts_once(node: Node) -> None:
    node.tenant["budgets"] = budget(1000)
    node.tenant["limits"] = Limits(tokens_per_minute=1000)
    node.apply()
    grant = node.acquire(max_tokens=100)
    grant.settle(100, 100)
    grant.settle(100, 100)
    grant.release()
    node.acquire(max_tokens=800 - PROMPT)


def test_each_budget_of_key_service_and_tenant_holds(node: Node) -> None:
    node.key["budgets"] = [Budget("bud_key", 1000)]
    node.service["budgets"] = [Budget("bud_service", 2000, "month")]
    node.tenant["budgets"] = [Budget("bud_day", 600, "day"), Budget("bud_tenant", 5000)]
    node.apply()
    node.acquire(max_tokens=400).settle(100, 400)
    assert "budget of this tenant is 600" in refused(node, max_tokens=200).message
    node.at += 86_400
    node.acquire(max_tokens=400).settle(0, 400)
    assert "budget of this API key is 1000" in refused(node, max_tokens=200).message


def test_budget_begins_anew_with_its_period_and_says_when(node: Node) -> None:
    node.tenant["budgets"] = budget(100, period="day")
    node.at = MIDNIGHT - 90
    node.apply()
    late = node.acquire(max_tokens=50)
    node.acquire(max_tokens=30).settle(10, 30)
    refusal = refused(node, max_tokens=30)
    assert fields(refusal.headers)["retry-after"] == "91"
    node.at = MIDNIGHT + 1
    node.acquire(max_tokens=30).release()
    late.settle(10, 50)  # of the day that it was admitted on
    node.acquire(max_tokens=100 - PROMPT).release()
    node.at = MIDNIGHT - 1
    refused(node, max_tokens=1)


def test_larger_of_own_count_and_the_databases_is_in_force(node: Node) -> None:
    node.tenant["budgets"] = budget(1000)
    node.apply()
    node.acquire(max_tokens=100).settle(0, 100)
    node.tenant["budgets"] = budget(1000, spent=40)  # the database is behind
    node.apply()
    node.acquire(max_tokens=900 - PROMPT).release()
    node.tenant["budgets"] = budget(1000, spent=600)  # this node's own count was lost in part
    node.apply()
    node.acquire(max_tokens=400 - PROMPT).release()
    refused(node, max_tokens=401 - PROMPT)
    node.acquire(1, max_tokens=100).settle(0, 100)  # comes on top of what the database knew
    refused(node, max_tokens=301 - PROMPT)
    node.apply()  # told again, of before
    refused(node, max_tokens=301 - PROMPT)


def test_databases_count_of_another_period_says_nothing(node: Node) -> None:
    node.at = MIDNIGHT + 10
    node.tenant["budgets"] = budget(1000, period="day", spent=900, spent_since=MIDNIGHT - 86_400)
    node.apply()
    node.acquire(max_tokens=900).release()
    node.tenant["budgets"] = budget(1000, period="day", spent=900, spent_since=MIDNIGHT)
    node.apply()
    refused(node, max_tokens=900)
    node.at += 86_400
    node.acquire(max_tokens=900).release()


def inserted(node: Node, **members: Any) -> int | None:
    prepared = node.request(0, parts.chat(**members)).prepared
    assert prepared is not None
    limit: int | None = json.loads(prepared.body).get("max_tokens")
    return limit


def test_answer_that_the_caller_did_not_limit_cannot_exceed_what_the_budget_has(node: Node) -> None:
    node.apply()
    assert inserted(node) is None
    node.tenant["budgets"] = budget(100_000)
    node.apply()
    assert inserted(node) == 4096
    assert inserted(node, max_tokens=7) == 7
    assert inserted(node, n=2) == 4096
    node.service["context_tokens"] = 32_768
    assert inserted(node) == 32_768 * 7 // 8 - 2 * PROMPT
    node.acquire().settle(0, 99_000)
    assert inserted(node) == 1000 - PROMPT
    assert inserted(node, n=2) == (1000 - PROMPT) // 2
    assert node.acquire(n=2) is not None, "what was inserted is what is reserved"
    assert inserted(node) == 1
    refused(node)


def test_services_ceiling_bounds_what_is_inserted(node: Node) -> None:
    node.service["defaults"] = wire.SamplingDefaults(max_tokens_ceiling=64)
    node.apply()
    assert inserted(node) == 64
    node.tenant["budgets"] = budget(50)
    node.apply()
    assert inserted(node) == 50 - PROMPT


def test_killed_workers_reservations_are_free_and_its_spending_stays(node: Node) -> None:
    node.tenant["budgets"] = budget(1000)
    node.tenant["limits"] = Limits(concurrent_requests=1, requests_per_minute=3)
    node.apply()
    node.acquire(0, max_tokens=100).settle(50, 50)
    node.acquire(0, max_tokens=800)
    refused(node, 1, max_tokens=1)
    node.restart(0)
    grant: Grant = node.acquire(1, max_tokens=900 - PROMPT)
    grant.release()
    assert "3 requests per minute" in refused(node, 0, max_tokens=1).message
