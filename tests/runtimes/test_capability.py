"""The capability matrix, cell by cell, and what its refusals say."""

import msgspec
import pytest

from appliance.runtimes.capability import (
    CombinationRefused,
    ModelTraits,
    check,
    check_device,
    device_class,
    excluded_models,
)
from appliance.runtimes.catalog import Mode, RuntimeSpec

PLAIN = ModelTraits(formats=("safetensors",), architectures=("LlamaForCausalLM",))
DEVICES = {
    "NVIDIA": ("nvidia", "NVIDIA H100 80GB HBM3"),
    "ZhiKai": ("iluvatar", "Iluvatar MR-V100"),
    "TianGai": ("iluvatar", "Iluvatar BI-V150"),
    "CPU": ("cpu", ""),
}


@pytest.fixture
def vllm(runtime: RuntimeSpec) -> RuntimeSpec:
    return msgspec.structs.replace(runtime, name="vllm", vendors=("nvidia", "iluvatar", "cpu"), encrypted=True)


@pytest.fixture
def transformers(vllm: RuntimeSpec) -> RuntimeSpec:
    return msgspec.structs.replace(vllm, name="transformers", mode=Mode.normal, quantised=False, encrypted=False)


@pytest.mark.parametrize("name", DEVICES)
def test_normal_mode_runs_everywhere(transformers: RuntimeSpec, name: str) -> None:
    check_device(transformers, *DEVICES[name])


@pytest.mark.parametrize("name", ["NVIDIA", "ZhiKai", "CPU"])
def test_high_performance_mode_runs_on_all_but_tiangai(vllm: RuntimeSpec, name: str) -> None:
    check_device(vllm, *DEVICES[name])


def test_tiangai_runs_normal_mode_only(vllm: RuntimeSpec) -> None:
    with pytest.raises(CombinationRefused, match="TianGai devices run normal mode only"):
        check_device(vllm, *DEVICES["TianGai"])


@pytest.mark.parametrize("what", ["quantised", "encrypted"])
def test_protected_models_need_high_performance_mode(vllm: RuntimeSpec, transformers: RuntimeSpec, what: str) -> None:
    traits = msgspec.structs.replace(PLAIN, **{what: True})
    check(vllm, "nvidia", traits)
    with pytest.raises(CombinationRefused) as refusal:
        check(transformers, "nvidia", traits)
    assert refusal.value.detail == (
        f"the transformers runtime runs in normal mode, which cannot serve {what} models; choose vllm or another "
        "runtime in high-performance mode"
    )


def test_a_runtime_says_itself_what_it_cannot(vllm: RuntimeSpec) -> None:
    plainer = msgspec.structs.replace(vllm, encrypted=False)
    with pytest.raises(CombinationRefused, match="the vllm runtime cannot serve encrypted models"):
        check(plainer, "nvidia", msgspec.structs.replace(PLAIN, encrypted=True))


def test_a_format_that_is_not_read_is_named(vllm: RuntimeSpec) -> None:
    with pytest.raises(CombinationRefused, match="in format gguf, the vllm runtime reads safetensors"):
        check(vllm, "cpu", ModelTraits(formats=("gguf",)))


def test_architectures(vllm: RuntimeSpec) -> None:
    check(vllm, None, PLAIN)
    with pytest.raises(CombinationRefused, match=r"the model is T5Model, the vllm runtime serves \*ForCausalLM"):
        check(vllm, None, msgspec.structs.replace(PLAIN, architectures=("T5Model",)))
    with pytest.raises(CombinationRefused, match="BaichuanForCausalLM: the engine dropped it"):
        check(vllm, None, msgspec.structs.replace(PLAIN, architectures=("BaichuanForCausalLM",)))


def test_a_vendor_that_the_runtime_lacks(runtime: RuntimeSpec) -> None:
    with pytest.raises(CombinationRefused, match="does not run on ZhiKai devices, only on NVIDIA devices or CPUs"):
        check_device(runtime, *DEVICES["ZhiKai"])


def test_a_runtime_for_cpus_refuses_any_device(runtime: RuntimeSpec) -> None:
    with pytest.raises(CombinationRefused, match="choose a flavor without devices"):
        check(msgspec.structs.replace(runtime, vendors=("cpu",)), None, PLAIN)


def test_classes() -> None:
    assert {name: device_class(*device) for name, device in DEVICES.items()} == {
        "NVIDIA": "nvidia",
        "ZhiKai": "zhikai",
        "TianGai": "tiangai",
        "CPU": "cpu",
    }


def test_what_placement_must_leave_out(vllm: RuntimeSpec, transformers: RuntimeSpec) -> None:
    excluded = excluded_models(vllm, DEVICES.values())
    assert list(excluded) == ["Iluvatar BI-V150"]
    assert "normal mode only" in excluded["Iluvatar BI-V150"]
    assert excluded_models(transformers, DEVICES.values()) == {}
