"""The official SDK for Node against the gateway. `npm ci` in `tests/plane/node_sdk` makes it available."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, chunk_event
from tests.plane.harness import KEY, Gateway

FOLDER = Path(__file__).parent / "node_sdk"

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(
        shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").is_dir(),
        reason="needs Node and `npm ci` in tests/plane/node_sdk",
    ),
]


def told(gateway: Gateway, call: str, key: str = KEY) -> Any:
    base = f"http://127.0.0.1:{gateway.port}/v1"
    command = ["node", "calls.mjs", base, key, call]
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_chat(gateway: Gateway) -> None:
    assert told(gateway, "chat") == {"text": "Hello.", "tokens": 12, "hasRequestId": True}


def test_stream(gateway: Gateway) -> None:
    assert told(gateway, "stream") == {"text": "Hello.", "usages": 0}
    assert told(gateway, "streamWithUsage") == {"text": "Hello.", "usages": 1}


def test_models(gateway: Gateway) -> None:
    assert told(gateway, "models") == {"ids": ["m"]}


def test_errors_have_the_sdks_classes(gateway: Gateway) -> None:
    refused = told(gateway, "chat", key="sk-wrong")
    assert (refused["error"], refused["status"], refused["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    missing = told(gateway, "otherModel")
    assert (missing["error"], missing["status"], missing["code"]) == ("NotFoundError", 404, "model_not_found")


def test_stream_that_is_cut_is_an_error(gateway: Gateway, engine: FakeEngine) -> None:
    async def cut(_: EngineRequest, answer: Answer) -> None:
        await answer.stream_head()
        await answer.chunk(chunk_event("a", 9, 1))
        answer.abort()

    engine.script = cut
    ended = told(gateway, "stream")
    assert ended["error"] == "APIError"
    assert "The engine stopped" in ended["message"]
