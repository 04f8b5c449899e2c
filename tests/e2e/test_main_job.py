"""The main job: a tenant publishes a model, a client gets a streamed, metered answer through a gateway."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.http import PLAIN
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    return Tenant.create(appliance)


@pytest.fixture(scope="module")
def key(tenant: Tenant) -> str:
    return tenant.key("sdk")


@pytest.fixture(scope="module")
def sdk(tenant: Tenant, key: str) -> openai.OpenAI:
    tenant.publish("chat")
    service = tenant.until("chat", "ready")
    client = openai.OpenAI(base_url=service["url"], api_key=key, max_retries=0)
    eventually(lambda: client.models.list().data, ignoring=(openai.OpenAIError,))
    return client


def test_a_chat_is_answered(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "to be or not"}], max_tokens=3
    )
    assert answer.choices[0].message.content == "to be or"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_a_chat_is_streamed(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "one two three"}], max_tokens=3, stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream]
    assert pieces == ["one ", "two ", "three "]


def test_the_models_are_listed(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["chat"]


def test_a_wrong_key_is_an_authentication_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="ak_wrong").models.list()


def test_an_unknown_model_is_a_not_found_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])


def test_what_was_answered_is_metered_once(tenant: Tenant, sdk: openai.OpenAI) -> None:
    made = done(tenant.client.post("keys", json={"name": "metered"}))
    client = sdk.with_options(api_key=made["secret"])
    eventually(lambda: client.models.list().data, 5, ignoring=(openai.AuthenticationError,))
    for _ in range(5):
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a b"}], max_tokens=4)
    key_id = made["key"]["id"]
    eventually(lambda: _tokens(tenant, key_id) == (5, 10, 20), 15, message="five requests are recorded")


def test_a_revoked_key_is_refused_within_a_second(tenant: Tenant, sdk: openai.OpenAI) -> None:
    client = sdk.with_options(api_key=tenant.key("short-lived"))
    eventually(lambda: client.models.list().data, 5, ignoring=(openai.AuthenticationError,))
    done(tenant.client.post("keys/short-lived/revoke"))
    eventually(lambda: _is_refused(client), 1.5)


def test_defaults_change_live(tenant: Tenant, sdk: openai.OpenAI) -> None:
    done(tenant.client.patch("services/chat", json={"defaults": {"max_tokens_ceiling": 2}}))

    def length() -> int | None:
        answer = sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a b c"}])
        return answer.usage.completion_tokens if answer.usage else None

    eventually(lambda: length() == 2, 5, message="the ceiling holds")
    with pytest.raises(openai.BadRequestError, match="at most 2"):
        sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a"}], max_tokens=9)


def test_scaling_stopping_starting_and_deleting(tenant: Tenant, key: str) -> None:
    tenant.publish("life", replicas=2)
    url = tenant.until("life", "ready")["url"]
    done(tenant.client.patch("services/life", json={"replicas": 1}))
    eventually(lambda: _live_replicas(tenant, "life") == 1)
    done(tenant.client.post("services/life/stop"))
    tenant.until("life", "stopped")
    answer = PLAIN.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == httpx.codes.OK
    done(tenant.client.post("services/life/start"))
    tenant.until("life", "ready")
    done(tenant.client.delete("services/life"))
    tenant.until_gone("life")


def test_the_seventeenth_service_of_a_gateway_is_told_the_remedy(tenant: Tenant) -> None:
    taken = len(done(tenant.client.get("services"))["items"])
    names = [f"port-{number}" for number in range(16 - taken)]
    for name in names:
        tenant.publish(name, replicas=0)
    refused = tenant.client.post("services", json={"name": "port-17", "model": "tiny", "gateway": "default"})
    assert refused.status_code == httpx.codes.CONFLICT
    assert "choose another gateway" in refused.json()["detail"]
    for name in names:
        done(tenant.client.delete(f"services/{name}"))
    for name in names:
        tenant.until_gone(name)


def test_an_engine_that_exits_is_explained_and_tried_again(tenant: Tenant) -> None:
    tenant.publish("broken", args=["--misbehave=exit"])
    service = tenant.until("broken", "failed")
    assert "the engine exited with code 1: this engine was told to fail" in service["reason"]
    eventually(lambda: tenant.service("broken")["deployments"][0]["failures"] >= 2, 20, message="it is tried again")
    log = tenant.client.get("services/broken/logs").text
    assert "this engine was told to fail" in log
    done(tenant.client.delete("services/broken"))
    tenant.until_gone("broken")


def test_an_engine_that_hangs_never_becomes_ready(tenant: Tenant) -> None:
    tenant.publish("hanging", args=["--misbehave=hang"])
    service = tenant.until("hanging", "failed", 40)
    assert "not ready after" in service["reason"]
    done(tenant.client.delete("services/hanging"))
    tenant.until_gone("hanging")


def test_what_cannot_be_placed_says_why(tenant: Tenant) -> None:
    tenant.publish("gpu", flavor="gpu-1")
    eventually(lambda: "device" in tenant.service("gpu")["reason"], message="a reason is shown")
    done(tenant.client.delete("services/gpu"))
    tenant.until_gone("gpu")


def _tokens(tenant: Tenant, key_id: str) -> tuple[int, int, int]:
    total = done(tenant.client.get("usage", params={"key": key_id}))["items"][0]
    return total["requests"], total["prompt_tokens"], total["completion_tokens"]


def _live_replicas(tenant: Tenant, name: str) -> int:
    replicas = tenant.service(name)["deployments"][0]["current"]
    return sum(replica["ended_at"] is None for replica in replicas)


def _is_refused(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False
