"""What is refused for its content, and what is detected in a good model."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest

from appliance.models.card import Card, read_card
from appliance.models.errors import ModelRefused
from appliance.models.inspection import Inspection, check_names
from appliance.models.metadata import ModelMetadata
from appliance.models.safetensors import MOST_TENSORS
from tests.models.builders import CONFIG, model_files, safetensors, write_files


def inspect(folder: Path, files: dict[str, bytes]) -> ModelMetadata:
    write_files(folder, files)
    check_names(files)
    inspection = Inspection()
    for path in files:
        inspection.add(path, folder / path)
    return inspection.finish()


def test_a_good_model_is_described(tmp_path: Path):
    metadata = inspect(tmp_path, model_files())
    assert metadata.architectures == ["LlamaForCausalLM"]
    assert (metadata.layers, metadata.hidden_size, metadata.attention_heads) == (3, 256, 4)
    assert (metadata.kv_heads, metadata.head_dim, metadata.vocabulary) == (2, 64, 2048)
    assert (metadata.max_positions, metadata.dtype, metadata.quantisation) == (512, "bfloat16", None)
    assert (metadata.parameters, metadata.weight_bytes) == (4096, 8192)
    assert metadata.elements_by_dtype == {"BF16": 4096}
    assert metadata.generation_defaults == {"top_k": 1, "temperature": 0.6}
    assert metadata.formats == ["safetensors"]
    assert metadata.has_chat_template
    assert (metadata.task_type, metadata.framework, metadata.card.license) == (
        "text-generation",
        "transformers",
        "apache-2.0",
    )


def test_figures_of_other_families_and_nested_configurations_are_found(tmp_path: Path):
    nested = {
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 8},
    }
    metadata = inspect(tmp_path, model_files() | {"config.json": json.dumps(nested).encode()})
    assert (metadata.layers, metadata.kv_heads, metadata.head_dim) == (5, 8, 8)
    older = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024}
    metadata = inspect(tmp_path, model_files() | {"config.json": json.dumps(older).encode()})
    assert (metadata.layers, metadata.hidden_size, metadata.kv_heads, metadata.max_positions) == (12, 768, 12, 1024)


def test_quantised_weights_are_noticed_and_their_parameters_not_guessed(tmp_path: Path):
    config = CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    weights = safetensors({"q": ("I32", (8, 8)), "s": ("F16", (8,))})
    files = model_files() | {"config.json": json.dumps(config).encode(), "model.safetensors": weights}
    metadata = inspect(tmp_path, files)
    assert (metadata.quantisation, metadata.parameters, metadata.weight_bytes) == ("awq", None, 272)


@pytest.mark.parametrize("value", [-1, 0, True, 1.5, "3", None, [], 1 << 60])
def test_figures_of_a_wrong_type_or_range_are_absent(tmp_path: Path, value: object):
    config = CONFIG | {"num_hidden_layers": value}
    assert inspect(tmp_path, model_files() | {"config.json": json.dumps(config).encode()}).layers is None


def test_values_that_no_database_holds_are_dropped(tmp_path: Path):
    generation = b'{"temperature": NaN, "top_p": Infinity, "top_k": 5, "suppress_tokens": [1], "max_length": 1e300}'
    assert inspect(tmp_path, model_files() | {"generation_config.json": generation}).generation_defaults == {"top_k": 5}


def test_a_model_with_more_tensors_than_any_is_refused(tmp_path: Path):
    many = safetensors({f"t{number}": ("U8", (0,)) for number in range(MOST_TENSORS // 4 + 1)})
    files = model_files() | {f"model-{number}.safetensors": many for number in range(4)}
    with pytest.raises(ModelRefused, match=rf"model-3\.safetensors: with it the model has more than {MOST_TENSORS}"):
        inspect(tmp_path, files)


def zipped(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data.pkl", b"x")
    return (tmp_path / "x.zip").read_bytes()


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("model.safetensors", pickle.dumps({"a": 1}), "not a valid safetensors file"),
        ("tokenizer.model", pickle.dumps({"a": 1}), "the content is a pickle"),
        ("tokenizer.model", b"\x89HDF\r\n\x1a\nxxxx", "the content is an HDF5 file"),
        ("vocab.txt", b"\x7fELF\x02", "the content is a program"),
        ("run.txt", b"#!/bin/sh\n", "the content is a script"),
        ("notes.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("notes.txt", b"a\0b", "zero bytes"),
        ("logo.png", b"<svg>", "not a picture"),
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[1]", "not a JSON object"),
        ("config.json", b"[" * 100_000, "nested too deeply"),
        ("config.json", json.dumps(CONFIG | {"auto_map": {"AutoModel": "x.Y"}}).encode(), "auto_map"),
        ("config.json", json.dumps({"vision_config": [{"auto_map": {}}]}).encode(), "auto_map"),
        ("config.json", b'{"\\u0061uto_map": null}', "auto_map"),
        ("tokenizer_config.json", json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}).encode(), "auto_map"),
        ("sub/processor_config.json", json.dumps({"auto_map": {}}).encode(), "auto_map"),
        ("model_index.json", json.dumps({"custom_pipelines": {}}).encode(), "custom_pipelines"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": 3}}', "not the JSON that is expected"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "../x.safetensors"}}', "not among the files"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "model-2.safetensors"}}', "not among the files"),
    ],
)
def test_dangerous_or_broken_content_is_refused_by_file_and_reason(
    tmp_path: Path, path: str, content: bytes, reason: str
):
    with pytest.raises(ModelRefused) as caught:
        inspect(tmp_path, model_files() | {path: content})
    (refusal,) = caught.value.refusals
    assert refusal.path == path
    assert reason in refusal.reason


def test_a_pytorch_file_under_another_name_is_refused(tmp_path: Path):
    with pytest.raises(ModelRefused, match="zip archive"):
        inspect(tmp_path, model_files() | {"tokenizer.model": zipped(tmp_path)})


def test_all_bad_names_are_told_at_once():
    with pytest.raises(ModelRefused) as caught:
        check_names(["pytorch_model.bin", "modeling.py", "../x.json"])
    assert [refusal.path for refusal in caught.value.refusals] == ["pytorch_model.bin", "modeling.py", "../x.json", ""]
    assert "no .safetensors file" in caught.value.detail
    assert caught.value.errors[2].pointer == "/files/..~1x.json"


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("no front matter", Card()),
        ("---\n---\n", Card()),
        ("---\npipeline_tag: fill-mask # why\n---\n", Card(task_type="fill-mask")),
        ("---\r\nlicense: 'mit'\r\n---\r\ntext", Card(license="mit")),
        ('---\nlanguage:\n- en\n- zh\ntags: [a, "b"]\n---\n', Card(languages=["en", "zh"], tags=["a", "b"])),
        ("---\nlicense: !!python/object:os.system\ntags:\n  - *x\n---\n", Card()),
        ("---\nmodel-index:\n- name: x\n  results:\n  - task: y\nlicense: mit\n---\n", Card(license="mit")),
        ("---\nlicense: " + "x" * 500 + "\n---\n", Card()),
    ],
)
def test_cards(text: str, card: Card):
    assert read_card(text) == card
