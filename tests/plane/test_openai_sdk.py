"""The official SDK against the gateway: what it makes of the answers is what users see."""

from collections.abc import Iterator

import openai
import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, chunk_event
from tests.plane.harness import KEY, SERVICE, Gateway, service

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]

    assert completion.choices[0].message.content == "Hello."
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 12


@pytest.mark.parametrize("asked", [False, True])
def test_stream(client: openai.OpenAI, asked: bool) -> None:  # noqa: FBT001 - a case
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **options))  # type: ignore[call-overload]

    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "Hello."
    assert [chunk.usage is not None for chunk in chunks] == ([False] * 3 + [True] if asked else [False] * 3)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "acme"


def test_errors_have_the_sdks_classes(client: openai.OpenAI, gateway: Gateway, engine: FakeEngine) -> None:
    def ask(client: openai.OpenAI, model: str = "m") -> None:
        client.chat.completions.create(model=model, messages=MESSAGES)  # type: ignore[arg-type]

    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        ask(client.with_options(api_key="sk-wrong"))
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        ask(client, "other")
    gateway.services = {SERVICE: service(engine.path, defaults=wire.SamplingDefaults(max_tokens_ceiling=5))}
    gateway.publish()
    with pytest.raises(openai.BadRequestError, match="at most 5"):
        client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=6)  # type: ignore[arg-type]
    gateway.services = {SERVICE: service(engine.path, deployments=[])}
    gateway.publish()
    with pytest.raises(openai.InternalServerError, match="No replica"):
        ask(client)


def test_stream_that_is_cut_is_an_error(client: openai.OpenAI, engine: FakeEngine) -> None:
    async def cut(_: EngineRequest, answer: Answer) -> None:
        await answer.stream_head()
        await answer.chunk(chunk_event("a", 9, 1))
        answer.abort()

    engine.script = cut
    with pytest.raises(openai.APIError, match="The engine stopped"):
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))  # type: ignore[arg-type]
