"""What a replica needs of its devices, for the workload of its arguments; what cannot be told asks for a number."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from msgspec.structs import replace

from appliance.kernel.resources import resource
from appliance.runtimes.arguments import check_args, with_devices
from appliance.runtimes.catalog import read_runtime
from appliance.runtimes.errors import ArgumentRefused, CombinationRefused
from appliance.runtimes.spec import Sizing
from appliance.services.needs import Asked, Needs, needs
from gpu.estimate.correction import NONE, Correction
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Estimate
from gpu.estimate.facts import ModelFacts, facts_of
from gpu.estimate.weights import TensorFact
from tests.gpu.checkpoints import LLAMA2_7B, LLAMA3_70B

KIB, GIB = 1024, 1024**3
VLLM = read_runtime(resource("images") / "vllm" / "runtime.toml")
TRANSFORMERS = read_runtime(resource("images") / "transformers" / "runtime.toml")
WEIGHTS = (
    TensorFact("model.layers.0.mlp.up_proj.weight", (11008, 4096), 12 * GIB),
    TensorFact("lm_head.weight", (32000, 4096), GIB),
)
LLAMA = facts_of(LLAMA2_7B, WEIGHTS)


def found(
    *args: str,
    devices: int = 1,
    facts: ModelFacts = LLAMA,
    runtime: Any = VLLM,
    given: int | None = None,
    share: int = 100,
    correction: Correction = NONE,
) -> Needs:
    asked = Asked(
        runtime=runtime,
        args=check_args(runtime, args),
        devices=devices,
        device_share=share,
        device_memory_bytes=given,
    )
    return needs(asked, facts, correction)


def test_without_arguments_it_is_one_sequence_of_the_models_context() -> None:
    told = found()
    assert (told.context, told.concurrency, told.share) == (4096, 1, 0.92)
    assert told.breakdown is not None
    assert told.breakdown.kv_cache_bytes == 4096 * 512 * KIB
    assert told.device_memory_bytes == ceil(told.breakdown.total_bytes / 0.92)


@pytest.mark.parametrize(
    ("args", "cache"),
    [
        (["--max-model-len=1024"], 1024 * 512 * KIB),
        (["--max-model-len", "1024", "--max-num-seqs", "8"], 8 * 1024 * 512 * KIB),
        (["--kv-cache-dtype=fp8_e4m3"], 4096 * 256 * KIB),
        (["--dtype=float32"], 4096 * 1024 * KIB),
        (["--kv-cache-memory-bytes=5368709120", "--max-num-seqs=64"], 5 * GIB),
    ],
)
def test_the_cache_follows_the_arguments(args: list[str], cache: int) -> None:
    told = found(*args).breakdown
    assert told is not None
    assert told.kv_cache_bytes == cache


def test_the_other_arguments_count() -> None:
    plain, eager, wide = found().estimated, found("--enforce-eager").estimated, found("--dtype=float32").estimated
    assert plain is not None
    assert eager is not None
    assert wide is not None
    assert (plain.graphs_bytes, eager.graphs_bytes) == (320 * 1024 * KIB, 0)
    assert wide.weights_bytes == 2 * plain.weights_bytes
    half = found("--gpu-memory-utilization=0.5")
    assert half.device_memory_bytes == 2 * plain.total_bytes


def test_a_model_is_split_over_all_devices_unless_the_arguments_say_otherwise() -> None:
    def split(*args: str, devices: int) -> tuple[int, int]:
        told = found(*args, devices=devices).estimated
        assert told is not None
        return told.ranks, told.groups

    assert split(devices=4) == (4, 1)
    assert split("--tensor-parallel-size=2", devices=4) == (2, 1)
    assert split("--tensor-parallel-size=2", "--pipeline-parallel-size=2", devices=4) == (2, 2)
    with pytest.raises(ArgumentRefused, match="8 devices are asked for by the arguments, and the flavor has 4"):
        split("--tensor-parallel-size=8", devices=4)


def test_dealt_layers_take_a_part_of_everything_but_what_is_in_no_layer() -> None:
    one, four = found().estimated, found("--pipeline-parallel-size=4", devices=4).estimated
    assert one is not None
    assert four is not None
    assert one.weights_bytes == 13 * GIB
    assert four.weights_bytes == 12 * GIB // 4 + GIB
    assert four.kv_cache_bytes == one.kv_cache_bytes // 4
    spread = found(devices=4, runtime=TRANSFORMERS).estimated  # an engine that splits no layer
    assert spread is not None
    assert (spread.ranks, spread.groups, spread.weights_bytes) == (1, 4, four.weights_bytes)


def test_heads_that_the_devices_do_not_divide_are_refused_with_the_counts_that_do() -> None:
    message = r"32 attention heads cannot be split over 3 devices; choose one of \[1, 2, 4, 8, 16, 32\]"
    with pytest.raises(EstimateImpossible, match=message):
        found(devices=3)
    with pytest.raises(EstimateImpossible, match=message):
        found(devices=3, given=20 * GIB)


def test_a_person_s_number_is_taken_as_it_is() -> None:
    told = found(given=20 * GIB, facts=facts_of({}, ()))
    assert (told.source, told.device_memory_bytes, told.breakdown) == ("given", 20 * GIB, None)


def test_a_person_s_number_holds_the_weights_at_least() -> None:
    with pytest.raises(ArgumentRefused, match=f"the weights and the cache alone take {13 * GIB} bytes of each device"):
        found(given=13 * GIB - 1)
    assert found(given=13 * GIB).device_memory_bytes == 13 * GIB
    cache = f"--kv-cache-memory-bytes={4 * GIB}"
    with pytest.raises(ArgumentRefused, match=f"the weights and the cache alone take {17 * GIB} bytes"):
        found(cache, given=17 * GIB - 1, share=50, runtime=TRANSFORMERS)
    assert found(cache, given=17 * GIB, share=50, runtime=TRANSFORMERS).source == "given"


@pytest.mark.parametrize("layers", [4097, 10**9])
def test_a_number_of_layers_that_no_model_has_is_refused_before_it_is_counted(layers: int) -> None:
    with pytest.raises(EstimateImpossible, match=f"tells of {layers} layers, which no model has"):
        found(facts=facts_of(LLAMA2_7B | {"num_hidden_layers": layers}, WEIGHTS))


def test_more_memory_than_any_device_has_is_refused() -> None:
    huge = LLAMA2_7B | {"max_position_embeddings": 1 << 39}
    with pytest.raises(EstimateImpossible, match="bytes of each device are more than any has"):
        found(facts=facts_of(huge, WEIGHTS))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (facts_of({}, WEIGHTS), "num_hidden_layers"),
        (facts_of(LLAMA2_7B, ()), "no safetensors weights"),
        (facts_of(LLAMA2_7B, WEIGHTS, "model.safetensors: its header is cut off"), "cut off"),
        (facts_of(LLAMA2_7B | {"max_position_embeddings": None}, WEIGHTS), "set --max-model-len"),
        (facts_of(LLAMA2_7B | {"mamba_d_state": 16}, WEIGHTS), "mamba_d_state"),
    ],
)
def test_what_cannot_be_estimated_asks_for_a_number_unless_it_needs_no_device(facts: ModelFacts, reason: str) -> None:
    with pytest.raises(EstimateImpossible, match=rf"{reason}.*publish with device_memory_bytes"):
        found(facts=facts)
    without = found(facts=facts, devices=0)
    assert (without.source, without.device_memory_bytes) == ("unknown", 0)
    assert without.problem is not None


def test_a_cache_that_holds_no_sequence_is_refused() -> None:
    with pytest.raises(EstimateImpossible, match="does not hold one sequence of 4096 tokens"):
        found("--kv-cache-memory-bytes=1073741824")


def test_a_context_beyond_the_model_s_is_refused_unless_it_is_stretched() -> None:
    with pytest.raises(EstimateImpossible, match="more than the model's 4096"):
        found("--max-model-len=8192")
    stretched = LLAMA2_7B | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert found(facts=facts_of(stretched, WEIGHTS)).context == 8192
    yarn = LLAMA2_7B | {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 2048}}
    assert found(facts=facts_of(yarn, WEIGHTS)).context == 8192
    llama3 = LLAMA2_7B | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert found(facts=facts_of(llama3, WEIGHTS)).context == 4096


def test_without_devices_nothing_is_asked_of_any() -> None:
    told = found(devices=0)
    assert told.device_memory_bytes == 0
    assert told.breakdown is not None
    assert told.breakdown.graphs_bytes == 0


def test_what_engines_reported_counts() -> None:
    plain, more = found(), found(correction=Correction(cache=1.5, cache_starts=1))
    assert plain.breakdown is not None
    assert more.breakdown is not None
    assert more.breakdown.kv_cache_bytes == 1.5 * plain.breakdown.kv_cache_bytes
    assert more.estimated == plain.estimated
    assert more.device_memory_bytes > plain.device_memory_bytes


def test_the_quantisation_is_kept_for_the_devices_to_be_asked() -> None:
    config = LLAMA3_70B | {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}
    told = found(facts=facts_of(config, WEIGHTS), devices=8)
    assert told.quantisation == {"quant_method": "compressed-tensors", "format": "float-quantized"}


def test_on_a_share_of_a_device_the_engine_is_kept_within_it() -> None:
    whole, half = found(), found(share=50)
    assert half.device_memory_bytes == whole.device_memory_bytes  # of what it gets, whatever that is of
    assert with_devices(VLLM, [], 1, device_share=50) == ("--gpu-memory-utilization=0.46",)
    assert with_devices(VLLM, ["--gpu-memory-utilization=0.3"], 1, device_share=50) == ("--gpu-memory-utilization=0.3",)
    assert with_devices(VLLM, [], 1, device_share=87.5) == ("--gpu-memory-utilization=0.805",)
    assert found("--gpu-memory-utilization=0.3", share=50).share == 0.6
    with pytest.raises(ArgumentRefused, match=r"--gpu-memory-utilization can be 0\.5 at most"):
        found("--gpu-memory-utilization=0.9", share=50)
    with pytest.raises(ArgumentRefused, match="--kv-cache-memory-bytes would take more than the share"):
        found(f"--kv-cache-memory-bytes={GIB}", share=50)
    assert found(f"--kv-cache-memory-bytes={4 * GIB}").cache_is_given


def test_an_engine_that_takes_what_is_free_is_told_its_cache() -> None:
    told = found(share=50, runtime=TRANSFORMERS).breakdown
    assert told is not None
    args = with_devices(TRANSFORMERS, [], 1, device_share=50, cache_bytes=told.kv_cache_bytes)
    assert args == (f"--kv-cache-memory-bytes={told.kv_cache_bytes}",)
    assert with_devices(TRANSFORMERS, [], 1, cache_bytes=7) == ()
    with pytest.raises(
        ArgumentRefused, match="on a share of a device the transformers runtime needs --kv-cache-memory"
    ):
        found(share=50, runtime=TRANSFORMERS, given=20 * GIB)
    other = replace(TRANSFORMERS, name="other", sizing=Sizing())
    with pytest.raises(CombinationRefused, match="the other runtime cannot share a device"):
        found(share=50, runtime=other)


def told(*args: str, **given: Any) -> Estimate:
    estimated = found(*args, **given).estimated
    assert estimated is not None
    return estimated


def test_a_step_counts_as_the_engine_is_told_to_be_ready_for_it() -> None:
    """It measures itself with as many tokens, whatever its sequences come to."""
    plain, more = told("--max-num-seqs=1"), told("--max-num-seqs=1", "--max-num-batched-tokens=65536")
    assert plain.activations_bytes == told("--max-num-batched-tokens=4096").activations_bytes
    assert more.activations_bytes == 16 * plain.activations_bytes
    assert told().activations_bytes == 2 * plain.activations_bytes  # several sequences of 4,096 tokens fill 8,192
    prefill = told("--max-prefill-tokens=65536", runtime=TRANSFORMERS)
    assert prefill.activations_bytes == more.activations_bytes


def test_without_a_number_of_sequences_the_engine_s_own_is_counted_in_a_step() -> None:
    words = facts_of(LLAMA2_7B | {"vocab_size": 1 << 22}, WEIGHTS)
    assert told(facts=words).activations_bytes == 1024 * (1 << 22) * 8
    assert told(facts=words, runtime=TRANSFORMERS).activations_bytes == 32 * (1 << 22) * 8
    assert told("--max-num-seqs=64", facts=words).activations_bytes == 64 * (1 << 22) * 8
    assert told(facts=words).kv_cache_bytes == told().kv_cache_bytes


@pytest.mark.parametrize(
    ("config", "dtype", "weights"),
    [
        ({"torch_dtype": "float32"}, "BF16", 26 * GIB),  # narrower in the files than it is computed in
        ({"dtype": "float32"}, "F32", 13 * GIB),
        ({}, "F32", 13 * GIB),
        ({"text_config": {"torch_dtype": "torch.float32"}}, "BF16", 26 * GIB),
    ],
)
def test_a_model_in_32_bits_counts_as_each_engine_loads_it(config: dict[str, Any], dtype: str, weights: int) -> None:
    facts = facts_of(LLAMA2_7B | config, [tensor._replace(dtype=dtype) for tensor in WEIGHTS])
    plain, own = told(runtime=TRANSFORMERS), told(facts=facts, runtime=TRANSFORMERS)
    assert own.weights_bytes == weights
    assert own.kv_cache_bytes == 2 * plain.kv_cache_bytes
    assert own.activations_bytes == 2 * plain.activations_bytes
    assert told(facts=facts).kv_cache_bytes == plain.kv_cache_bytes  # vLLM computes it in 16 bits
    assert told("--dtype=float32", facts=facts).kv_cache_bytes == own.kv_cache_bytes
    assert told("--dtype=bfloat16", facts=facts, runtime=TRANSFORMERS).kv_cache_bytes == plain.kv_cache_bytes


def test_a_configuration_that_lies_about_its_precision_saves_nothing() -> None:
    facts = facts_of(LLAMA2_7B | {"torch_dtype": "float32"}, WEIGHTS)
    assert told("--dtype=float32", facts=facts).weights_bytes == 26 * GIB
    with pytest.raises(ArgumentRefused, match=f"take {26 * GIB} bytes"):
        found("--dtype=float32", facts=facts, given=25 * GIB)
