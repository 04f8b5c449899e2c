"""What budgets reserve, charge and refuse, and what of them outlives a worker."""

import json
from typing import Any

from appliance.gateway.plane import wire
from appliance.gateway.plane.limits.grant import Grant
from appliance.gateway.plane.schemas.limits import Budget, Limits
from tests.plane import parts
from tests.plane.limits.workers import PROMPT, Node, fields, refused

MIDNIGHT = 1_700_006_400.0


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
