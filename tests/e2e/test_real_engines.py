"""The demo model's answers come back exactly, greedily, through each engine, launcher and database.

The combinations hold each value of each dimension at least once; the note of a release names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from appliance.runtimes import environments
from appliance.runtimes.catalog import Catalog
from tests.images.engines import demo_model
from tests.support import postgres
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.docker import require_image
from tests.support.environments import environments_folder
from tests.support.requirements import Requirement, unavailable
from tests.support.waiting import eventually

QUESTIONS = Path(__file__).parents[2] / "images" / "demo-model" / "questions.json"
ASKED = 6
LOADING_S = 240.0
CACHE_BYTES = 256 << 20
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


class Combination(NamedTuple):
    runtime: str
    launcher: str
    database: str


COMBINATIONS = [
    Combination("transformers", "process", "sqlite"),
    pytest.param(Combination("transformers", "docker", "postgres"), marks=[pytest.mark.docker, pytest.mark.postgres]),
    pytest.param(Combination("vllm", "process", "postgres"), marks=pytest.mark.postgres),
    pytest.param(Combination("vllm", "docker", "sqlite"), marks=pytest.mark.docker),
]


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def combination(request: pytest.FixtureRequest) -> Combination:
    chosen: Combination = request.param
    return chosen


@pytest.fixture
def appliance(combination: Combination, request: pytest.FixtureRequest) -> Iterator[Appliance]:
    model = demo_model()
    environ = {"APPLIANCE_ENGINES__ENVIRONMENTS": str(environments_folder()), **_launcher(combination, request)}
    with ExitStack() as stack:
        if combination.database == "postgres":
            server = request.getfixturevalue("postgres_server")
            environ["APPLIANCE_DATABASE_URL"] = stack.enter_context(postgres.database(server))
        environ["APPLIANCE_MODELS__IMPORT_ROOTS"] = str(model)
        yield stack.enter_context(running(**environ))


def test_memorised_answers_come_back_exactly(appliance: Appliance, combination: Combination) -> None:
    tenant = Tenant.named(appliance, "demo")
    tenant.import_model("demo", demo_model())
    args = [f"--kv-cache-memory-bytes={CACHE_BYTES}"]
    tenant.publish("chat", model="demo", runtime=combination.runtime, args=args)
    service = tenant.until("chat", "ready", LOADING_S)
    client = openai.OpenAI(base_url=service["url"], api_key=tenant.key(), max_retries=0)
    eventually(lambda: client.models.list().data, 5, ignoring=(openai.AuthenticationError,))
    pairs = json.loads(QUESTIONS.read_text())
    for pair in pairs[:: len(pairs) // ASKED]:
        assert _ask(client, pair["question"]) == pair["answer"]
        assert _ask_streamed(client, pair["question"]) == pair["answer"]
    _check_the_report(tenant, combination.runtime)
    assert not appliance.violations()


def _check_the_report(tenant: Tenant, runtime: str) -> None:
    """What vLLM told of its cache is what was estimated; the other engine tells nothing, and corrects nothing."""
    told = done(tenant.client.get("models/demo/versions/main/estimate", params={"context": 64}))["corrections"]
    if runtime == "vllm":
        assert told["vllm"]["cache_starts"] == 1
        assert told["vllm"]["cache"] == pytest.approx(1, abs=0.01)
    else:
        assert told == {}


def _launcher(combination: Combination, request: pytest.FixtureRequest) -> dict[str, str]:
    runtime = Catalog.load().get(combination.runtime)
    if combination.launcher == "process":
        if not environments.is_ready(runtime, environments_folder()):
            unavailable(Requirement.ENGINES, f"the environment of {runtime.name} is not built")
        return {}
    host = request.getfixturevalue("docker_host")
    require_image(request.getfixturevalue("docker_images"), runtime.default_image or "")
    return {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": host}


def _ask(client: openai.OpenAI, question: str) -> str | None:
    answer = client.chat.completions.create(model="chat", messages=[_user(question)], temperature=0, max_tokens=64)
    return answer.choices[0].message.content


def _ask_streamed(client: openai.OpenAI, question: str) -> str:
    stream = client.chat.completions.create(
        model="chat", messages=[_user(question)], temperature=0, max_tokens=64, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def _user(question: str) -> Any:
    return {"role": "user", "content": question}
