"""Tenants, keys and services on a listener that all of them share."""

from typing import Any

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, completion
from tests.plane.harness import KEY, Gateway, request, service

OTHER_KEY = "sk-other-0123456789"
V2 = ["GET /v2/models/{model}", "GET /v2/models/{model}/ready", "POST /v2/models/{model}/infer", "GET /v2/health/ready"]
NARROW = "sk-narrow-0123456789"


def of(engine: FakeEngine, name: str, **changes: Any) -> wire.ServiceShard:
    defaults = {"id": f"svc_{name}", "name": name, "served_model": f"{name}-m", "gateway_id": "gwy_1"}
    return service(engine.path, **{**defaults, **changes})


def ids(gateway: Gateway, key: str = KEY) -> list[str]:
    return [card["id"] for card in gateway.ask(request(method="GET", path="/v1/models", key=key)).json["data"]]


async def answer_json(_: EngineRequest, answer: Answer) -> None:
    await answer.json(completion())
