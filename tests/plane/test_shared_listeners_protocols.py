"""The protocols of a shared listener, by real processes: Open Inference, a runtime's own routes, the official SDK."""

from typing import Any

import openai
import pytest

from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine
from tests.plane.harness import KEY, Gateway, request
from tests.plane.sharing import answer_json, of


def test_open_inference_protocol(shared: Gateway, engine: FakeEngine) -> None:
    assert shared.ask(request(method="GET", path="/v2/health/live")).json == {"live": True}
    assert shared.ask(request(method="GET", path="/v2")).json["extensions"] == ["binary_tensor_data"]
    assert shared.ask(request(method="GET", path="/v2", key=None)).json == {
        "error": "You did not provide an API key. Send a key of this service's tenant as 'Authorization: Bearer <key>'."
    }
    assert shared.ask(request(method="GET", path="/v2/models/tensors/ready")).status == 200
    missing = shared.ask(request(method="GET", path="/v2/models/none"))
    assert (missing.status, list(missing.json)) == (404, ["error"])
    assert shared.ask(request(b"{}", path="/tensors/v2/models/tensors-m/infer")).status == 200
    assert [seen.line for seen in engine.requests] == [
        "GET /v2/models/tensors-m/ready HTTP/1.1",
        "POST /v2/models/tensors-m/infer HTTP/1.1",
    ]


def test_binary_tensors_both_ways(shared: Gateway, engine: FakeEngine) -> None:
    header = b'{"outputs":[]}'

    async def infer(_: EngineRequest, answer: Answer) -> None:
        await answer.raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
            b"content-length: %d\r\n\r\n%b\x00\xff" % (len(header), len(header) + 2, header)
        )

    engine.script = infer
    answer = shared.ask(
        request(
            b'{"inputs":[]}\x00\x01\x02\xff',
            path="/v2/models/tensors-m/infer",
            fields={"Inference-Header-Content-Length": "13", "Content-Type": "application/octet-stream"},
        )
    )
    assert answer.body == header + b"\x00\xff"
    assert answer.fields["inference-header-content-length"] == str(len(header))
    (seen,) = engine.requests
    assert seen.body == b'{"inputs":[]}\x00\x01\x02\xff'
    assert seen.field("inference-header-content-length") == "13"
    assert seen.field("content-type") == "application/octet-stream"


def test_engines_error_on_a_v2_route_has_the_protocols_form(shared: Gateway, engine: FakeEngine) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": "wrong shape"}, 400)

    engine.script = fail
    answer = shared.ask(request(b"{}", path="/v2/models/tensors-m/infer"))
    assert (answer.status, answer.json) == (400, {"error": "wrong shape"})


def test_routes_of_a_runtimes_own(shared: Gateway, engine: FakeEngine) -> None:
    engine.script = answer_json
    assert shared.ask(request(b"[1, 2]", path="/tensors/predict")).status == 200
    assert shared.ask(request(b"\x00", path="/tensors/predict")).status == 400
    upload = request(b"\x00\xff", path="/tensors/upload?a=%20b", fields={"Content-Type": "image/png"})
    assert shared.ask(upload).status == 200
    assert shared.ask(request(b"[]", path="/tensors/predict?a=b")).error["code"] == "unexpected_query"
    assert [seen.line.split(" ")[1] for seen in engine.requests] == ["/predict", "/upload?a=%20b"]
    assert engine.requests[1].field("content-type") == "image/png"


def test_official_sdk_with_one_address_for_all_models(shared: Gateway, engine: FakeEngine) -> None:
    shared.services["svc_chat"] = of(engine, "chat", served_model="org/chat:7b")
    shared.publish()
    address = f"http://127.0.0.1:{shared.port}"
    messages: Any = [{"role": "user", "content": "hi"}]
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        listed = [model.id for model in client.models.list()]
        assert listed == ["org/chat:7b", "tensors-m", "lent-m"]
        assert [client.models.retrieve(model).id for model in listed] == listed
        assert client.chat.completions.create(model=listed[0], messages=messages).choices
        with pytest.raises(openai.NotFoundError, match="does not exist here or you do not have access"):
            client.chat.completions.create(model="secret-m", messages=messages)
        chat_only = client.with_options(base_url=f"{address}/rival.lent/v1")
        assert list(chat_only.chat.completions.create(model="lent-m", messages=messages, stream=True))
