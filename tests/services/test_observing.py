"""What vLLM's log tells of its memory, compared with the estimate; the lines are those of vLLM 0.32."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import update

from appliance.models.tables import ModelVersionRow
from appliance.services.corrections import corrections_of
from appliance.services.needs import Asked, Needs, needs
from appliance.services.observing import EngineReport, compare, observe, parse
from appliance.services.states import ReplicaState, ServiceState
from gpu.estimate.correction import NONE, Correction, Report, overhead_of
from gpu.snapshot import DeviceView, LeaseView
from tenants.schemas import Trust
from tenants.tables import TenantRow
from tests.services.stage import Stage
from tests.services.test_needs import LLAMA, VLLM

GIB = 1024**3
ON_CPU = """
(Worker pid=29594) INFO 11-21 13:55:17 [default_loader.py:501] Loading weights took 0.02 seconds
(Worker pid=29594) INFO 11-21 13:55:18 [cpu_worker.py:260] Explicitly set (1.0/12.71) GiB for KV cache on node 0.
(EngineCore pid=29314) INFO 11-21 13:55:18 [kv_cache_utils.py:2327] CPU KV cache size: 699,008 tokens, Maximum \
concurrency for 512 tokens per request: 1365.25x
(EngineCore pid=29314) INFO 11-21 13:55:22 [core.py:402] init engine (profile, create kv cache) took 4.69 s
""".splitlines()
ON_DEVICE = """
(Worker pid=7) INFO 11-21 13:55:17 [gpu_model_runner.py:5150] Model loading took 12.55 GiB memory and 3.1 seconds
(Worker pid=7) INFO 11-21 13:55:18 [gpu_worker.py:760] Available KV cache memory: 59.32 GiB
(EngineCore pid=6) INFO 11-21 13:55:18 [kv_cache_utils.py:2327] GPU KV cache size: 121,488 tokens, Maximum \
concurrency for 4,096 tokens per request: 29.66x
(Worker pid=7) INFO 11-21 13:55:22 [gpu_model_runner.py:6582] Graph capturing finished in 5 secs, took 0.50 GiB
(APIServer pid=5) INFO 11-21 13:56:18 GPU KV cache size: 1 tokens, Maximum concurrency for 1 tokens per request: 1x
""".splitlines()
CARD = DeviceView(
    id="dev_1",
    node_id="nod_1",
    vendor="nvidia",
    model="H100",
    index=0,
    uuid="GPU-1",
    memory_bytes=80 * GIB,
    leases=(LeaseView("rpl_1"),),
)


def needed(*args: str, devices: int = 1) -> Needs:
    return needs(Asked(runtime=VLLM, args=args, devices=devices), LLAMA, NONE)


def test_a_log_is_read() -> None:
    assert parse(ON_CPU) == EngineReport(tokens=699_008, context=512, cpu_cache=1.0)
    assert parse(ON_DEVICE) == EngineReport(tokens=121_488, context=4096, device_cache=59.32, graphs=0.5)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["GPU KV cache size: , tokens, Maximum concurrency for 4,096 tokens"],
        ["GPU KV cache size: 0 tokens, Maximum concurrency for 4,096 tokens"],
        [f"GPU KV cache size: {'9' * 40} tokens, Maximum concurrency for 4,096 tokens"],
        ["Available KV cache memory: 59.32 GiB"],
    ],
)
def test_what_is_not_understood_tells_nothing(lines: list[str]) -> None:
    assert parse(lines) is None


def test_a_device_tells_cache_and_overhead() -> None:
    told, wanted = parse(ON_DEVICE), needed()
    assert told is not None
    assert wanted.estimated is not None
    report = compare(told, wanted, [CARD], None)
    assert report.sequence_bytes == pytest.approx(wanted.estimated.sequence_bytes, rel=1e-3)
    taken = (0.92 * 80 - 59.32 + 0.5) * GIB - wanted.estimated.weights_bytes
    assert report.overhead_bytes == pytest.approx(taken)
    assert overhead_of(wanted.estimated) > 0


def test_only_what_was_told_of_the_same_length_and_of_whole_devices_is_compared() -> None:
    told = parse(ON_DEVICE)
    assert told is not None
    assert compare(told, needed("--max-model-len=1024"), [CARD], None).sequence_bytes is None
    shared = msgspec.structs.replace(CARD, leases=(LeaseView("rpl_1", 50),))
    assert compare(told, needed(), [shared], None).overhead_bytes is None
    assert compare(told, needed(), [CARD], 8 * GIB).overhead_bytes is None
    small = msgspec.structs.replace(told, device_cache=0.4)  # rounded to hundredths, that says little of a sequence
    assert compare(small, needed(), [CARD], None).sequence_bytes is None


def test_a_device_on_which_other_programs_hold_memory_tells_no_overhead() -> None:
    told = parse(ON_DEVICE)
    assert told is not None
    crowded = compare(told, needed(), [msgspec.structs.replace(CARD, memory_foreign=1)], None)
    assert crowded.overhead_bytes is None
    assert crowded.sequence_bytes == compare(told, needed(), [CARD], None).sequence_bytes


def test_a_cpu_tells_the_cache() -> None:
    told = EngineReport(tokens=2048, context=4096, cpu_cache=1.0)
    wanted = needed(devices=0)
    assert wanted.estimated is not None
    assert compare(told, wanted, [], None) == Report(sequence_bytes=2 * GIB)
    assert wanted.estimated.sequence_bytes == 2 * GIB
    assert compare(told, wanted, [], 3 * GIB) == Report(sequence_bytes=6 * GIB)


async def test_a_start_corrects_later_estimates_of_the_family(stage: Stage) -> None:
    """The engine says that a sequence takes half as much again."""
    async with stage.database.write() as session:
        mine = update(ModelVersionRow).where(ModelVersionRow.id == stage.version_id)
        await session.execute(mine.values(details={"architectures": ["LlamaForCausalLM"]}))
    first = await stage.create("first", flavor="gpu")
    plain = msgspec.convert((await stage.deployment(first)).needs, Needs)
    assert plain.estimated is not None
    tokens = round(2 * GIB * 512 / (1.5 * plain.estimated.sequence_bytes))
    stage.launcher.log = [
        "INFO Available KV cache memory: 2.0 GiB",
        f"INFO GPU KV cache size: {tokens:,} tokens, Maximum concurrency for 512 tokens per request: 9.00x",
    ]
    await stage.until(first, ServiceState.ready)
    async with stage.database.read() as session:
        kept = await corrections_of(session, "LlamaForCausalLM")
    assert kept["light"].cache == pytest.approx(1.5, rel=1e-3)
    assert kept["light"].cache_starts == 1
    second = msgspec.convert((await stage.deployment(await stage.create("second", flavor="gpu"))).needs, Needs)
    assert second.correction == kept["light"]
    assert second.breakdown is not None
    assert second.breakdown.kv_cache_bytes == pytest.approx(1.5 * plain.estimated.kv_cache_bytes, rel=1e-3)


async def test_an_untrusted_tenants_engine_corrects_nothing(stage: Stage) -> None:
    async with stage.database.write() as session:
        mine = update(ModelVersionRow).where(ModelVersionRow.id == stage.version_id)
        await session.execute(mine.values(details={"architectures": ["LlamaForCausalLM"]}))
    service_id = await stage.create("first", flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    (replica,) = await stage.replicas(service_id, ReplicaState.ready)
    told = EngineReport(tokens=10, context=512, device_cache=2.0)
    for trust in (Trust.untrusted, Trust.trusted):
        async with stage.database.write() as session:
            await session.execute(update(TenantRow).values(trust=trust.value))
            await observe(session, stage.machinery, replica.id, told)
            assert ("light" in await corrections_of(session, "LlamaForCausalLM")) is (trust is Trust.trusted)


async def test_an_engine_that_tells_nothing_corrects_nothing(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    async with stage.database.read() as session:
        assert await corrections_of(session, "LlamaForCausalLM") == {}
    assert msgspec.convert((await stage.deployment(service_id)).needs, Needs).correction == Correction()
