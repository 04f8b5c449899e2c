"""Before an engine starts its image is pulled and its model is read, both told with their progress."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from appliance.launchers.errors import ImageMissing
from appliance.models.errors import ModelDamaged
from appliance.services.states import ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow
from tests.services.preparations import Images, Slow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async

READING = "comparing the model's files with their checksums"


@pytest.fixture
def reading(stage: Stage) -> Slow:
    stage.verifier.slow = slow = Slow()
    return slow


@pytest.fixture
def images(stage: Stage) -> Images:
    stage.launcher.images = images = Images()
    return images


async def _begun(stage: Stage, slow: Slow) -> None:
    async def begun() -> bool:
        await stage.round()
        return slow.begun.is_set()

    await eventually_async(begun, message="the preparation has begun")


async def _told(stage: Stage, service_id: str, message: str) -> None:
    async def told() -> bool:
        return message in await stage.events(service_id)

    await eventually_async(told, message=message)


async def test_a_model_is_read_before_its_engine_starts(stage: Stage, reading: Slow) -> None:
    service_id = await stage.create()
    await _begun(stage, reading)
    reading.advance(3)
    await _told(stage, service_id, f"{READING}, 30 %")
    assert not stage.launcher.running
    reading.finish()
    await stage.until(service_id, ServiceState.ready)
    events = await stage.events(service_id)
    assert events.index(READING) < events.index(f"{READING}, 30 %") < events.index("the engine was started")


async def test_a_damaged_model_is_a_reason_that_a_person_understands(stage: Stage, reading: Slow) -> None:
    reading.trouble = ModelDamaged("the model's file a.safetensors is missing; import the version again")
    reading.finish()
    service_id = await stage.create()
    failed = await stage.until(service_id, ServiceState.failed)
    assert "a.safetensors is missing" in failed.reason
    assert not stage.launcher.running


async def test_while_it_moves_a_replica_has_time(stage: Stage, reading: Slow) -> None:
    service_id = await stage.create()
    await _begun(stage, reading)
    (before,) = await stage.replicas(service_id, ReplicaState.placed)
    stage.clock.advance(100)
    reading.advance(1)
    await _told(stage, service_id, f"{READING}, 10 %")
    (after,) = await stage.replicas(service_id, ReplicaState.placed)
    assert before.deadline_at is not None
    assert after.deadline_at is not None
    assert after.deadline_at - before.deadline_at >= timedelta(seconds=100)
    stage.clock.advance(100)
    await stage.round()
    assert await stage.replicas(service_id, ReplicaState.placed)
    reading.finish()
    await stage.until(service_id, ServiceState.ready)


async def test_a_service_that_is_deleted_meanwhile_waits_for_nothing(stage: Stage, reading: Slow) -> None:
    service_id = await stage.create()
    await _begun(stage, reading)
    await stage.delete(service_id)
    reading.advance(5)
    await stage.until_forgotten(service_id)
    assert reading.gave_up
    assert not stage.launcher.running


async def test_the_end_of_the_control_plane_waits_for_nothing(stage: Stage, reading: Slow) -> None:
    service_id = await stage.create()
    await _begun(stage, reading)
    await stage.reconciler.close()
    assert reading.gave_up
    assert await stage.replicas(service_id, ReplicaState.placed)


async def _with_image(stage: Stage, image: str) -> str:
    service_id = await stage.create()
    async with stage.database.write() as session:
        await session.execute(update(DeploymentRow).values(image=image))
    return service_id


async def test_a_missing_image_is_pulled(stage: Stage, images: Images) -> None:
    service_id = await _with_image(stage, "registry.example/engine:1")
    await _begun(stage, images.slow)
    images.slow.advance(9)
    await _told(stage, service_id, "pulling the image registry.example/engine:1, 90 %")
    images.slow.finish()
    await stage.until(service_id, ServiceState.ready)
    await stage.scale(service_id, 2)
    await stage.until(service_id, ServiceState.degraded, ServiceState.starting)
    await stage.until(service_id, ServiceState.ready)
    assert images.slow.runs == 1


async def test_an_image_that_cannot_be_had_is_told(stage: Stage, images: Images) -> None:
    images.slow.trouble = ImageMissing("The image engine:1 is not on this machine")
    images.slow.finish()
    service_id = await _with_image(stage, "engine:1")
    failed = await stage.until(service_id, ServiceState.failed)
    assert "engine:1 is not on this machine" in failed.reason
    assert "pulling the image engine:1" in await stage.events(service_id)
