"""The flavor that a model gets where none is named, by what the pool has."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.kernel.ids import new_id
from appliance.runtimes.errors import CombinationRefused
from appliance.services.needs import Asked, needs
from appliance.services.sizing import Fitted, Stock, guide, smallest
from gpu.estimate.correction import NONE
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.facts import ModelFacts, facts_of
from gpu.estimate.weights import TensorFact
from gpu.tables import FlavorRow
from tenants.grant_schemas import GrantKind
from tenants.grant_tables import GrantRow
from tests.gpu.checkpoints import LLAMA2_7B, LLAMA3_70B, dense
from tests.services.stage import Stage
from tests.services.test_needs import VLLM

GIB = 1024**3
NAMES = {0: "cpu", 1: "gpu-1", 2: "gpu-2", 3: "gpu-3", 4: "gpu-4", 8: "gpu-8"}
H200 = Stock("nvidia", "H200", "9.0", 8, 141 * GIB)
A10 = Stock("nvidia", "A10", "8.6", 8, 24 * GIB)
T4 = Stock("nvidia", "T4", "7.5", 8, 16 * GIB)
V100 = Stock("nvidia", "V100", "7.0", 8, 32 * GIB)
ZHIKAI = Stock("iluvatar", "MR-V100", None, 8, 32 * GIB)
TIANGAI = Stock("iluvatar", "BI-V150", None, 8, 64 * GIB)


def tensors(config: dict[str, Any]) -> list[TensorFact]:
    def size(shape: tuple[int, ...]) -> int:
        elements = 1
        for length in shape:
            elements *= length
        return 2 * elements

    return [TensorFact(name, shape, size(shape)) for name, _, shape in dense(config)]


def facts(config: dict[str, Any]) -> ModelFacts:
    return facts_of(config, tensors(config))


SEVEN, SEVENTY = facts(LLAMA2_7B), facts(LLAMA3_70B)
FLAVORS = [
    FlavorRow(id=name, name=name, devices=devices, device_share=100, device_vendor=None, cpus=1.0, memory_bytes=GIB)
    for devices, name in NAMES.items()
]


def chosen(
    stock: list[Stock], known: ModelFacts, *args: str, flavors: list[FlavorRow] = FLAVORS, given: int | None = None
) -> tuple[str, str]:
    def fit(flavor: FlavorRow) -> Fitted:
        asked = Asked(runtime=VLLM, args=args, devices=flavor.devices, device_memory_bytes=given)
        return Fitted(flavor, VLLM, needs(asked, known, NONE))

    found = smallest(flavors, stock, fit, known, "default")
    return found.flavor.name, found.needs.reason


@pytest.mark.parametrize(
    ("billions", "least", "most"),
    [(1, 2, 2), (29.9, 2, 2), (30, 4, 8), (70, 4, 8), (70.1, 8, 16), (400, 8, 16)],
)
def test_the_guide(billions: float, least: int, most: int) -> None:
    told = guide(round(2e9 * billions))
    assert (told.least, told.most) == (least, most)


def test_without_devices_it_is_the_smallest_flavor() -> None:
    assert chosen([], SEVEN) == ("cpu", "the smallest flavor: pool default has no devices that the tenant may use")


def test_the_estimate_improves_the_guide() -> None:
    name, reason = chosen([H200], SEVEN)
    assert name == "gpu-1"
    assert "a device needs 17.5 GiB, and pool default has H200 with 141.0 GiB" in reason
    assert "2 devices are usual for 6.7 billion parameters" in reason
    assert chosen([A10], SEVEN)[0] == "gpu-1"
    assert chosen([T4], SEVEN)[0] == "gpu-2"
    assert chosen([H200], SEVENTY)[0] == "gpu-2"
    assert chosen([H200], SEVENTY, "--max-num-seqs=64")[0] == "gpu-4"


def test_a_number_that_does_not_divide_the_heads_is_passed_over() -> None:
    """32 heads are not split over 3 devices."""
    without = [flavor for flavor in FLAVORS if flavor.devices not in (1, 2)]
    assert chosen([T4], SEVEN, flavors=without)[0] == "gpu-4"


def test_a_person_s_number_counts() -> None:
    assert chosen([A10, H200], SEVEN, given=100 * GIB)[0] == "gpu-1"
    assert "H200" in chosen([A10, H200], SEVEN, given=100 * GIB)[1]


def test_devices_that_cannot_compute_the_model_do_not_count() -> None:
    assert "MR-V100" in chosen([TIANGAI, ZHIKAI], SEVEN)[1]  # TianGai runs normal mode alone
    fp8 = facts_of(LLAMA2_7B | {"quantization_config": {"quant_method": "fp8"}}, tensors(LLAMA2_7B))
    assert "A10" in chosen([V100, A10], fp8)[1]


def test_where_nothing_suffices_the_guide_is_followed() -> None:
    name, reason = chosen([T4], SEVENTY)
    assert name == "gpu-8"
    assert reason.startswith("no flavor's devices suffice on what pool default has; 8 to 16 devices are usual for 70.6")
    with pytest.raises(EstimateImpossible, match="device_memory_bytes"):
        chosen([H200], facts_of({}, tensors(LLAMA2_7B)))


def test_a_model_that_no_runtime_serves_on_devices_gets_none() -> None:
    def fit(flavor: FlavorRow) -> Fitted:
        if flavor.devices:
            raise CombinationRefused("the runtime runs on CPUs only")
        return Fitted(flavor, VLLM, needs(Asked(runtime=VLLM, args=(), devices=0), SEVEN, NONE))

    assert smallest(FLAVORS, [H200], fit, SEVEN, "default").flavor.name == "cpu"


async def test_a_service_without_a_flavor_says_why_it_got_its_own(stage: Stage) -> None:
    service_id = await stage.create(flavor=None)
    deployment = await stage.deployment(service_id)
    assert deployment.flavor_name == "gpu"
    assert deployment.needs["reason"].startswith("the smallest flavor that suffices: a device needs")


async def test_devices_that_the_tenant_may_not_use_are_none_of_the_pool_s(stage: Stage) -> None:
    async with stage.database.write() as session:
        session.add(
            GrantRow(
                id=new_id("grt"),
                tenant_id=stage.tenant_id,
                kind=GrantKind.device_class.value,
                device_class="nvidia/L4",
                created_by="admin",
                created_at=stage.clock.now(),
            )
        )
    deployment = await stage.deployment(await stage.create(flavor=None))
    assert deployment.flavor_name == "small"
    assert deployment.needs["reason"] == "the smallest flavor: pool default has no devices that the tenant may use"
