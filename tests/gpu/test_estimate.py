"""Estimates of known models, from checkpoints with their real shapes, against published figures and arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.models.estimation import estimate_version
from gpu.estimate.compatibility import refusal
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Estimate, Workload, estimate
from gpu.estimate.facts import facts_of
from gpu.estimate.shape import read_shape
from gpu.estimate.weights import TensorFact, add_up, weights_per_rank
from gpu.snapshot import DeviceKind
from gpu.states import Vendor
from tests.gpu import checkpoints
from tests.gpu.checkpoints import DEEPSEEK_V3, GEMMA3_1B, LLAMA2_7B, LLAMA3_70B, QWEN3_06B, dense

GIB = 1024**3
KIB = 1024
ONE = [TensorFact("model.layers.0.mlp.up_proj.weight", (4, 4), 32)]


def of(folder: Path, **workload: Any) -> Estimate:
    return estimate_version(folder, Workload(**({"context": 4096} | workload)), [])


def shape_of(config: Mapping[str, Any], **workload: Any) -> Estimate:
    """With weights that do not matter."""
    return estimate(facts_of(config, ONE), Workload(**({"context": 4096} | workload)))


def test_qwen3_06b_does_not_load_its_head_twice(tmp_path: Path) -> None:
    """The file holds 751,632,384 parameters (1.5 GB), of which the tied head is no weight of its own: 596,049,920."""
    folder = checkpoints.write(tmp_path / "m", QWEN3_06B, dense(QWEN3_06B))
    assert (folder / "model-00000.safetensors").stat().st_size == pytest.approx(1_503_264_768, rel=1e-4)
    told = of(folder)
    assert told.weights_bytes == 2 * 596_049_920
    assert told.kv_bytes_per_token == 112 * KIB
    assert told.kv_cache_bytes == 4096 * 112 * KIB
    assert told.total_bytes < 4 * GIB  # a card is not needed for a model of this size


def test_llama3_70b_is_split_over_its_heads(tmp_path: Path) -> None:
    """70,553,706,496 parameters; 320 KiB of cache a token, 40 KiB on each of eight devices."""
    folder = checkpoints.write(tmp_path / "m", LLAMA3_70B, dense(LLAMA3_70B))
    one, eight, sixteen = (of(folder, context=8192, concurrency=8, ranks=ranks) for ranks in (1, 8, 16))
    assert one.weights_bytes == 2 * 70_553_706_496
    assert one.kv_bytes_per_token == 320 * KIB
    assert one.kv_cache_bytes == 8 * 8192 * 320 * KIB
    assert eight.kv_bytes_per_token == 40 * KIB
    norms = (2 * 80 + 1) * 8192 * 2
    assert eight.weights_bytes == (one.weights_bytes - norms) // 8 + norms
    # A device holds one head of keys and values at least: sixteen take no less cache than eight.
    assert sixteen.kv_bytes_per_token == 40 * KIB
    assert sixteen.notes == ["8 heads of keys and values are repeated on 16 devices"]
    keys_and_values = 80 * 2 * 1024 * 8192 * 2
    assert sixteen.weights_bytes == (one.weights_bytes - norms - keys_and_values) // 16 + keys_and_values // 8 + norms
    for told in (one, eight, sixteen):
        parts = (told.weights_bytes, told.kv_cache_bytes, told.activations_bytes, told.graphs_bytes, told.runtime_bytes)
        assert told.total_bytes == sum(parts)
        assert all(part > 0 for part in parts)


def test_deepseek_v3_keeps_a_latent_vector_on_each_device(tmp_path: Path) -> None:
    """671 B parameters without the layer that predicts; 70.272 kB of cache a token (published, ISCA 2025)."""
    folder = checkpoints.write(tmp_path / "m", DEEPSEEK_V3, checkpoints.deepseek_v3())
    one, eight = of(folder), of(folder, ranks=8)
    assert one.kv_bytes_per_token == 70_272
    assert eight.kv_bytes_per_token == 70_272
    assert one.weights_bytes == pytest.approx(671e9, rel=0.01)
    compressing = 61 * (1536 + 576) * 7168  # of queries, of keys and values; FP8
    routers = 58 * 256 * 7168 * 2
    on_each = compressing + routers
    assert eight.weights_bytes == pytest.approx((one.weights_bytes - on_each) / 8 + on_each, rel=1e-4)
    assert eight.notes == ["the cache of latent attention is on each device as a whole"]


def test_gemma3_1b_keeps_a_window_in_five_layers_of_six(tmp_path: Path) -> None:
    """999,885,952 parameters. Of 26 layers the 6th, 12th, 18th and 24th attend to everything."""
    folder = checkpoints.write(tmp_path / "m", GEMMA3_1B, dense(GEMMA3_1B, norms=4, head=False))
    told = of(folder, context=32768, step_tokens=2048)
    assert told.weights_bytes == 2 * 999_885_952
    layer = 2 * 1 * 256 * 2
    windows = -(-(512 - 1 + 2048) // 16) + 1
    # The 22 others share blocks in groups of four, the last of which has two layers.
    assert told.kv_cache_bytes == layer * (4 * 32768 + 24 * windows * 16)
    short = of(folder, context=256, step_tokens=2048)
    assert short.kv_cache_bytes == layer * (4 * 256 + 24 * (256 + 16))


@pytest.mark.parametrize(("method", "published"), [("awq", 3.89e9), ("gptq", 3.90e9)])
def test_packed_weights_are_counted_as_they_are_stored(tmp_path: Path, method: str, published: float) -> None:
    """Llama-2 7B in four bits and groups of 128 is published with 3.89 GB (AWQ) and 3.90 GB (GPTQ) of weights."""
    config = LLAMA2_7B | {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    folder = checkpoints.write(tmp_path / "m", config, dense(config, quantised=method))
    told = of(folder)
    assert told.weights_bytes == pytest.approx(published, rel=0.002)
    assert told.kv_bytes_per_token == 512 * KIB
    assert of(folder, kv_element_bytes=1).kv_bytes_per_token == 256 * KIB


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        ({"num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 40, "vocab_size": 32000}, 800),
        (LLAMA3_70B | {"vocab_size": 152064}, 320),  # Qwen2 72B has the same heads
        (
            {"num_hidden_layers": 60, "hidden_size": 7168, "num_attention_heads": 56, "num_key_value_heads": 8,
             "vocab_size": 64000},
            240,
        ),
        ({"text_config": LLAMA2_7B, "vision_config": {"hidden_size": 1024}}, 512),
    ],
    ids=["llama2-13b", "qwen2-72b", "yi-34b", "within-text-config"],
)  # fmt: skip
def test_the_cache_of_verified_families(config: Mapping[str, Any], per_token: int) -> None:
    assert shape_of(config).kv_bytes_per_token == per_token * KIB


def test_which_layers_have_a_window_is_never_guessed() -> None:
    """Where the file does not say, every layer is taken to attend to everything."""
    full = shape_of(LLAMA2_7B).kv_cache_bytes
    assert shape_of(LLAMA2_7B | {"sliding_window": 1024}).kv_cache_bytes == full
    assert shape_of(LLAMA2_7B | {"sliding_window": 1024, "use_sliding_window": False}).kv_cache_bytes == full
    kinds = ["full_attention", "sliding_attention"] * 16
    half = shape_of(LLAMA2_7B | {"sliding_window": 128, "layer_types": kinds}, step_tokens=128)
    layer = 2 * 4096 * 2
    assert half.kv_cache_bytes == layer * 16 * (4096 + (16 + 1) * 16)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({}, "num_hidden_layers.*kv_bytes_per_token"),
        (LLAMA2_7B | {"num_attention_heads": "many"}, "num_attention_heads.*kv_bytes_per_token"),
        (LLAMA2_7B | {"mamba_d_state": 128}, "mamba_d_state.*kv_bytes_per_token"),
        (LLAMA2_7B | {"is_encoder_decoder": True}, "encoder"),
        (LLAMA2_7B | {"layer_types": ["linear_attention"] * 32}, "'linear_attention' are not known"),
        (LLAMA2_7B | {"layer_types": ["full_attention"]}, "does not name each layer"),
    ],
)
def test_what_cannot_be_estimated_asks_for_a_number(config: Mapping[str, Any], missing: str) -> None:
    with pytest.raises(EstimateImpossible, match=missing):
        shape_of(config)
    told = shape_of(config, kv_bytes_per_token=1000, concurrency=2)
    assert (told.kv_cache_bytes, told.weights_bytes) == (2 * 4096 * 1000, 32)


def test_a_model_without_tensors_asks_for_its_weights() -> None:
    with pytest.raises(EstimateImpossible, match="weight_bytes"):
        estimate(facts_of(LLAMA2_7B, []), Workload(context=1))
    assert estimate(facts_of(LLAMA2_7B, []), Workload(context=1, weight_bytes=77)).weights_bytes == 77


def test_heads_are_split_evenly_or_not_at_all() -> None:
    with pytest.raises(
        EstimateImpossible, match=r"64 attention heads cannot be split over 3 devices; choose one of \[1, 2, 4"
    ):
        shape_of(LLAMA3_70B, ranks=3)
    with pytest.raises(EstimateImpossible, match="more than the model's 8192"):
        shape_of(LLAMA3_70B, context=8193)


@pytest.mark.parametrize(
    ("quantisation", "capability", "reason"),
    [
        (None, "6.0", None),
        ({"quant_method": "fp8"}, "8.9", None),
        ({"quant_method": "fp8"}, "7.0", "fp8 needs compute capability 7.5 or more, the device has 7.0"),
        ({"quant_method": "awq"}, "7.0", "awq needs compute capability 7.5"),
        ({"quant_method": "gptq"}, "6.1", None),
        ({"quant_method": "mxfp4"}, "7.5", "mxfp4 needs compute capability 8.0"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "8.6", "8.9 or more"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "8.6", None),
        ({"quant_method": "compressed-tensors", "format": "strange"}, "9.0", "is not known"),
        ({"quant_method": "gguf"}, "9.0", "not served"),
        ({"quant_method": "quip"}, "9.0", "'quip' is not known"),
        ({}, "9.0", "is not known"),
        ({"quant_method": "fp8"}, None, "the device tells none"),
        ({"quant_method": "fp8"}, "10.0", None),
    ],
)
def test_quantisation_against_compute_capability(
    quantisation: Mapping[str, Any] | None, capability: str | None, reason: str | None
) -> None:
    config = LLAMA2_7B if quantisation is None else LLAMA2_7B | {"quantization_config": quantisation}
    told = refusal(config, capability)
    if reason is None:
        assert told is None
    else:
        assert reason in (told or "")


def test_the_devices_that_there_are_are_checked(tmp_path: Path) -> None:
    config = LLAMA2_7B | {"quantization_config": {"quant_method": "fp8"}}
    folder = checkpoints.write(tmp_path / "m", config, iter([("a.weight", "F16", (4, 4))]))
    kinds = [
        DeviceKind(Vendor.nvidia, "V100", "7.0"),
        DeviceKind(Vendor.nvidia, "L4", "8.9"),
        DeviceKind(Vendor.iluvatar, "MR-V100", "7.1"),  # another vendor's number says nothing here
    ]
    told = estimate_version(folder, Workload(context=128), kinds)
    assert list(told.refused_devices) == ["V100"]


def test_a_broken_file_is_no_estimate(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m", LLAMA2_7B, iter([("a.weight", "F16", (4, 4))]))
    with (folder / "model-00000.safetensors").open("r+b") as file:
        file.truncate(20)
    with pytest.raises(EstimateImpossible, match=r"model-00000\.safetensors"):
        of(folder)


NAMES = [
    "model.layers.0.k_proj.weight",
    "model.layers.1.up_proj.weight",
    "lm_head.weight",
    "model.layers.0.gate.weight",
]
TENSORS = st.builds(
    TensorFact,
    st.sampled_from(NAMES),
    st.sampled_from([(8,), (4, 4)]),
    st.integers(0, 1 << 40),
    st.sampled_from(["BF16", "F32", "U8"]),
)


@given(st.lists(TENSORS, min_size=1, max_size=30), st.sampled_from([1, 2, 8, 16]))
def test_tensors_added_up_take_what_each_takes(tensors: list[TensorFact], ranks: int) -> None:
    shape = read_shape(LLAMA3_70B)
    one_by_one = sum(weights_per_rank(add_up([tensor], shape), shape, ranks) for tensor in tensors)
    together = weights_per_rank(add_up(tensors, shape), shape, ranks)
    assert one_by_one - len(tensors) <= together <= one_by_one


def test_what_is_kept_of_a_model_does_not_grow_with_its_tensors() -> None:
    many = (TensorFact(f"layers.{number}.{number % 7}", (number % 5, 4), number) for number in range(20_000))
    facts = facts_of(LLAMA2_7B, many)
    assert facts.weights.tensors == 20_000
    assert len(facts.weights.parts) < 5
