"""A small runtime for tests, as a file and as what is read from it."""

from pathlib import Path

from appliance.runtimes.catalog import RuntimeSpec, read_runtime

LIGHT = """
name = "light"
title = "Light"
mode = "high-performance"
engine_version = "1.2.3"
vendors = ["nvidia", "cpu"]
formats = ["safetensors"]
quantised = true
architectures = ["*ForCausalLM"]
routes = ["POST /v1/chat/completions", "GET /v1/models"]
health_path = "/health"
metrics_path = "/metrics"
start_timeout_s = 60
stop_grace_s = 5

[excluded_architectures]
BaichuanForCausalLM = "the engine dropped it in 0.24"

[metrics]
prompt_tokens = "engine:prompt_tokens_total"
generation_tokens = "engine:generation_tokens_total"

[process]
command = ["{python}", "-m", "light", "--model", "{model}", "--uds", "{socket}", "--name={served_name}"]
[process.env]
PYTHONPATH = "{runtime_dir}"
LIGHT_MODE = "fixed"

[docker]
repository = "example/light"
command = ["{python}", "-m", "light", "--model", "{model}", "--uds", "{socket}"]
user = 10001

[args."--max-model-len"]
type = "integer"
minimum = 1
maximum = 4096
[args."--share"]
type = "number"
minimum = 0
maximum = 1
[args."--dtype"]
type = "choice"
choices = ["auto", "bfloat16"]
[args."--label"]
type = "string"
pattern = "[a-z0-9./=:-]+"
[args."--eager"]
type = "flag"

[env.LIGHT_MODE]
type = "choice"
choices = ["fixed", "free"]
[env.LIGHT_LEVEL]
type = "integer"
minimum = 0
maximum = 9
"""


def write(folder: Path, text: str = LIGHT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runtime.toml"
    file.write_text(text)
    return file


def light(folder: Path, text: str = LIGHT) -> RuntimeSpec:
    return read_runtime(write(folder, text))
