"""Limits and budgets from the API through the snapshot to a gateway's refusals, and their spending back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tests.support.appliance import Tenant, done, running
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def tenant() -> Iterator[Tenant]:
    with running() as appliance:
        yield Tenant.create(appliance)


@pytest.fixture(scope="module")
def url(tenant: Tenant) -> str:
    tenant.publish("chat")
    address: str = tenant.until("chat", "ready")["url"]
    return address


def ask(client: openai.OpenAI, **members: Any) -> Any:
    messages: Any = [{"role": "user", "content": "a b"}]
    return client.chat.completions.with_raw_response.create(
        model="chat", messages=messages, **{"max_tokens": 4, **members}
    )


@contextmanager
def client_of(tenant: Tenant, url: str, name: str, **members: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=tenant.known_key(url, name, **members), max_retries=0) as client:
        yield client


def test_a_keys_limit_is_told_holds_and_is_lifted_within_a_second(tenant: Tenant, url: str) -> None:
    with client_of(tenant, url, "limited", limits={"requests_per_minute": 3}) as client:
        left = [ask(client).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
        assert left == ["2", "1", "0"]
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        done(tenant.client.patch("keys/limited", json={"limits": {}}))
        lifted = eventually(lambda: ask(client), 1.5, ignoring=(openai.RateLimitError,))
        assert "x-ratelimit-limit-requests" not in lifted.headers


def use_up(client: openai.OpenAI, max_tokens: int) -> tuple[int, openai.RateLimitError]:
    """The tokens used until a request is refused, and that refusal."""
    used = 0

    def refusal() -> openai.RateLimitError | None:
        nonlocal used
        try:
            used += ask(client, max_tokens=max_tokens).parse().usage.total_tokens
        except openai.RateLimitError as error:
            return error
        return None

    error = eventually(refusal, message="a request is refused")
    assert error is not None
    return used, error


def test_a_budget_is_enforced_and_its_spending_comes_back(tenant: Tenant, url: str) -> None:
    with client_of(tenant, url, "budgeted") as client:
        budget = done(tenant.client.post("budgets", json={"tokens": 60, "period": "day", "key": "budgeted"}))
        before, _ = use_up(client, 100)  # more than there is: refused as soon as the budget is in force
        after, refused = use_up(client, 4)
        assert (refused.code, refused.type) == ("insufficient_quota", "insufficient_quota")
        assert after <= 60

        def told() -> bool:
            return bool(done(tenant.client.get(f"budgets/{budget['id']}"))["spent"] == before + after)

        eventually(told, 20, message=f"{before} and {after} tokens are spent")
