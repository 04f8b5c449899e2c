"""`vllm bench serve` through the gateway against vLLM: every request is answered, and metered as the engine counts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance.runtimes import environments
from appliance.runtimes.catalog import Catalog
from tests.images.engines import demo_model
from tests.support.appliance import Appliance, Tenant, running
from tests.support.environments import environments_folder
from tests.support.requirements import Requirement, unavailable
from tests.support.waiting import eventually

PROMPTS, ANSWER_TOKENS = 40, 24
LOADING_S = 240.0
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_every_request_of_the_load_is_answered_and_metered(tmp_path: Path) -> None:
    runtime = Catalog.load().get("vllm")
    if not environments.is_ready(runtime, environments_folder()):
        unavailable(Requirement.ENGINES, "the environment of vllm is not built")
    model = demo_model()
    settings = {
        "APPLIANCE_ENGINES__ENVIRONMENTS": str(environments_folder()),
        "APPLIANCE_MODELS__IMPORT_ROOTS": str(model),
    }
    with running(**settings) as appliance:
        tenant = Tenant.named(appliance, "demo")
        tenant.import_model("demo", model)
        tenant.publish("chat", model="demo", runtime="vllm")
        url = tenant.until("chat", "ready", LOADING_S)["url"]
        key = tenant.known_key(url)
        result = bench(environments.python(runtime, environments_folder()), url, key, model, tmp_path)
        assert result["completed"] == PROMPTS
        assert result["failed"] == 0
        generated = result["total_output_tokens"]
        assert generated == PROMPTS * ANSWER_TOKENS
        eventually(lambda: metered(appliance) == (PROMPTS, generated), 20, message="all of it is metered")


def bench(python: Path, url: str, key: str, model: Path, folder: Path) -> dict[str, Any]:
    """The result file of a run with eight requests at a time."""
    command = [str(python), str(Path(__file__).with_name("vllm_bench.py"))]
    command += ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", url.removesuffix("/v1"), "--model", str(model), "--served-model-name", "chat"]
    command += ["--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(ANSWER_TOKENS)]
    command += ["--ignore-eos", "--num-prompts", str(PROMPTS), "--max-concurrency", "8", "--disable-tqdm"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "result.json"]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return told


def metered(appliance: Appliance) -> tuple[int, int]:
    """Requests and generated tokens of the load; what the appliance itself asked is not among them."""
    rows = [row for row in appliance.rows("usage_records") if row["stream"]]
    return len(rows), sum(row["completion_tokens"] for row in rows)
