"""The main job on each database with each launcher: publish, ask, be metered, scale, delete, and leave nothing."""

from __future__ import annotations

from collections.abc import Mapping

import openai
from openai.types.chat import ChatCompletionUserMessageParam

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.waiting import eventually


def test_the_main_job(on_database: Mapping[str, str], on_launcher: Mapping[str, str]) -> None:
    with running(**on_database, **on_launcher) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("chat")
        made = done(tenant.client.post("keys", json={"name": "sdk"}))
        client = openai.OpenAI(base_url=tenant.until("chat", "ready", 60)["url"], api_key=made["secret"], max_retries=0)
        _ask(client)
        eventually(lambda: _usage(tenant, made["key"]["id"]) == (2, 6, 5), 20, message="both requests are metered")
        assert appliance.engines() == 1
        _scale(tenant)
        assert appliance.engines() == 2
        assert not appliance.violations()
        done(tenant.client.delete("services/chat"))
        tenant.until_gone("chat", 60)
        assert appliance.engines() == 0
        assert not appliance.violations()
        _stops_in_order(appliance)


def _ask(client: openai.OpenAI) -> None:
    """One whole answer and one streamed: 2 requests, 3 + 3 prompt tokens, 2 + 3 completion tokens."""
    eventually(lambda: client.models.list().data, 5, ignoring=(openai.AuthenticationError,))
    message: ChatCompletionUserMessageParam = {"role": "user", "content": "one two three"}
    whole = client.chat.completions.create(model="chat", messages=[message], max_tokens=2)
    assert whole.choices[0].message.content == "one two"
    stream = client.chat.completions.create(model="chat", messages=[message], max_tokens=3, stream=True)
    assert [chunk.choices[0].delta.content for chunk in stream] == ["one ", "two ", "three "]


def _usage(tenant: Tenant, key_id: str) -> tuple[int, int, int]:
    total = done(tenant.client.get("usage", params={"key": key_id}))["items"][0]
    return total["requests"], total["prompt_tokens"], total["completion_tokens"]


def _scale(tenant: Tenant) -> None:
    done(tenant.client.patch("services/chat", json={"replicas": 2}))
    eventually(lambda: tenant.service("chat")["ready_replicas"] == 2, 60, message="two replicas are ready")


def _stops_in_order(appliance: Appliance) -> None:
    assert appliance.stop() == 0, appliance.output()
    assert appliance.processes() == []
