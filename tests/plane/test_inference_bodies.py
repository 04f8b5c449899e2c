"""Bodies of the Open Inference Protocol and of a runtime's own routes are passed on as they came."""

import pytest

from appliance.gateway.plane.defaults import prepare
from tests.plane.bodies import refusal
from tests.plane.parts import request, shard

V2 = shard(routes=["POST /v2/models/{model}/infer", "POST /predict", "POST /upload raw"])


def test_inference_request_is_passed_on_as_it_came() -> None:
    body = b'{ "inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}] }'
    prepared = prepare(request(V2, path="/v2/models/chat/infer"), body)
    assert prepared is not None
    assert (prepared.body, prepared.fields, prepared.model) == (body, b"content-type: application/json\r\n", "chat")


def test_binary_tensors_follow_their_header() -> None:
    head = b'{"inputs":[]}'
    asked = request(V2, path="/v2/models/chat/infer", fields={"inference-header-content-length": str(len(head))})
    prepared = prepare(asked, head + b"\x00\xff" * 10)
    assert prepared is not None
    assert prepared.body == head + b"\x00\xff" * 10
    assert prepared.fields == b"content-type: application/octet-stream\r\ninference-header-content-length: 13\r\n"


@pytest.mark.parametrize("length", ["0", "-1", "+5", "5", "1e1", "99", "1" * 50, "5, 5", "x", ""])
def test_header_length_that_is_not_so(length: str) -> None:
    asked = request(V2, path="/v2/models/chat/infer", fields={"inference-header-content-length": length})
    assert refusal(asked, b'{"inputs":[]}' + b"\x00" * 10).status == 400


def test_other_routes_take_any_json_or_with_raw_anything() -> None:
    for body in (b"[1,2]", b'{"model":"whatever"}', b"null"):
        prepared = prepare(request(V2, path="/predict"), body)
        assert prepared is not None
        assert prepared.body == body
    assert refusal(request(V2, path="/predict"), b"\x00").status == 400
    prepared = prepare(request(V2, path="/upload", fields={"content-type": "multipart/form-data; boundary=x"}), b"\x00")
    assert prepared is not None
    assert (prepared.body, prepared.fields) == (b"\x00", b"content-type: multipart/form-data; boundary=x\r\n")
    odd = request(V2, path="/upload", fields={"content-type": "text/plain; x=é"})
    assert refusal(odd, b"").status == 400
