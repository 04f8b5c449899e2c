"""The estimate against what vLLM itself reports of its cache, for small models of several forms; prints the errors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.models.estimation import read_facts
from appliance.runtimes.arguments import check_args
from appliance.runtimes.catalog import Catalog
from appliance.services.needs import Asked, needs
from appliance.services.observing import compare, parse
from gpu.estimate.correction import NONE
from tests.images.engines import demo_model, started

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

CACHE = 256 << 20
LLAMA: dict[str, Any] = {}
"""The demo's own form: 3 layers, 4 heads, 2 of keys and values."""
FORMS: dict[str, dict[str, Any]] = {
    "grouped": LLAMA,
    "every head its own": {"num_key_value_heads": 4, "num_hidden_layers": 5},
    "one head for all": {"num_key_value_heads": 1, "num_hidden_layers": 2},
    "heads of their own size": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 128,
        "num_hidden_layers": 4,
    },
    "windows": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 64,
        "num_hidden_layers": 6,
        "sliding_window": 128,
        "sliding_window_pattern": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "query_pre_attn_scalar": 64,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_cache_is_what_the_engine_reports(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model(), folder)
    config = json.loads((folder / "config.json").read_text()) | FORMS[form]
    (folder / "config.json").write_text(json.dumps(config))
    runtime = Catalog.load().get("vllm")
    args = (f"--kv-cache-memory-bytes={CACHE}", "--max-model-len=512", "--max-num-batched-tokens=512")
    asked = Asked(runtime=runtime, args=check_args(runtime, args), devices=0)
    wanted = needs(asked, read_facts(folder), NONE)
    with started("vllm", tmp_path, model=folder, args=(*args, "--load-format=dummy")) as engine:
        engine.wait_ready()
        told = parse(engine.log.read_text().splitlines())
    assert told is not None
    assert wanted.estimated is not None
    observed = compare(told, wanted, [], CACHE).sequence_bytes
    assert observed is not None
    error = wanted.estimated.sequence_bytes / observed - 1
    with capsys.disabled():
        sys.stdout.write(
            f"\n{form}: a sequence of 512 tokens takes {observed / 1024:.1f} KiB as vLLM reports, estimated "
            f"{wanted.estimated.sequence_bytes / 1024:.1f} KiB ({error:+.2%})\n"
        )
    assert error > -0.01, "the estimate is below what the engine takes"
    assert error < 0.01
