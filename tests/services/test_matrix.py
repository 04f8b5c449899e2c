"""The capability matrix with the runtimes that come with the appliance, from publishing to the place on a device."""

from __future__ import annotations

import pytest

from appliance.runtimes.capability import ModelTraits, check
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.errors import CombinationRefused
from appliance.services.requesting import placement_request
from appliance.services.tables import DeploymentRow
from gpu.placement import place
from gpu.requests import Plan, Rejection, Strategy
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView, PoolView
from gpu.tables import FlavorRow

GIB = 1024**3
CATALOG = Catalog.load()
LLAMA = ("LlamaForCausalLM",)
DEVICES = {
    "NVIDIA": ("nvidia", "NVIDIA H100 80GB HBM3", "9.0"),
    "V100": ("nvidia", "Tesla V100-SXM2-32GB", "7.0"),
    "ZhiKai": ("iluvatar", "Iluvatar MR-V100", None),
    "TianGai": ("iluvatar", "Iluvatar BI-V150", None),
}
FLAVOR = FlavorRow(id="flv_1", name="gpu", devices=1, device_share=100, device_vendor=None, cpus=1.0, memory_bytes=GIB)


def placed(runtime: str, device: str, *, quantisation: dict[str, str] | None = None) -> Plan | Rejection:
    vendor, model, capability = DEVICES[device]
    card = DeviceView(
        id="dev_1",
        node_id="nod_1",
        vendor=vendor,
        model=model,
        index=0,
        uuid="GPU-1",
        memory_bytes=32 * GIB,
        compute_capability=capability,
    )
    node = NodeView(id="nod_1", name="node-1", pool_id="pol_1", cpus=8.0, memory_bytes=64 * GIB, devices=(card,))
    snapshot = ComputeSnapshot((PoolView("pol_1", "default"),), (node,))
    deployment = DeploymentRow(
        id="dep_1",
        pool_id="pol_1",
        runtime=runtime,
        devices=1,
        device_memory_bytes=20 * GIB,
        args=[],
        strategy=Strategy.pack.value,
    )
    deployment.needs = {"quantisation": quantisation or {}}
    return place(snapshot, placement_request(CATALOG, deployment, FLAVOR, {}, snapshot))


@pytest.mark.parametrize("device", ["NVIDIA", "ZhiKai"])
def test_high_performance_mode_is_placed_on_nvidia_and_zhikai(device: str) -> None:
    assert placed("vllm", device) == Plan("nod_1", ("dev_1",))


def test_high_performance_mode_is_never_placed_on_tiangai() -> None:
    refused = placed("vllm", "TianGai")
    assert isinstance(refused, Rejection)
    assert "TianGai devices run normal mode only; the vllm runtime runs in high-performance mode" in (
        refused.sentence + " ".join(reason.text for reason in refused.reasons)
    )


@pytest.mark.parametrize("what", ["encrypted", "quantised"])
def test_normal_mode_refuses_protected_models_and_names_the_remedy(what: str) -> None:
    traits = ModelTraits(
        formats=("safetensors",), architectures=LLAMA, quantised=what == "quantised", encrypted=what == "encrypted"
    )
    message = rf"the transformers runtime runs in normal mode, which cannot serve {what} models; choose vllm or another"
    for vendor in ("nvidia", "cpu"):
        with pytest.raises(CombinationRefused, match=message):
            check(CATALOG.get("transformers"), vendor, traits)
        check(CATALOG.get("vllm"), vendor, traits)
    check(CATALOG.get("vllm"), "iluvatar", traits)


def test_a_card_that_cannot_compute_the_quantisation_is_left_out_with_the_reason() -> None:
    fp8 = {"quant_method": "fp8", "format": ""}
    assert placed("vllm", "NVIDIA", quantisation=fp8) == Plan("nod_1", ("dev_1",))
    refused = placed("vllm", "V100", quantisation=fp8)
    assert isinstance(refused, Rejection)
    assert "fp8 needs compute capability 7.5 or more, the device has 7.0" in (
        refused.sentence + " ".join(reason.text for reason in refused.reasons)
    )
    assert placed("vllm", "V100") == Plan("nod_1", ("dev_1",))
