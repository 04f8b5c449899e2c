import pytest

from appliance.launchers.contract import DeviceGrant
from appliance.launchers.devices import container_devices, process_environment
from appliance.launchers.errors import StartRefused

NVIDIA = (
    DeviceGrant(vendor="nvidia", uuid="GPU-a", index=0, minor=0),
    DeviceGrant(vendor="nvidia", uuid="GPU-b", index=1, minor=1),
)
ILUVATAR = (
    DeviceGrant(vendor="iluvatar", uuid="GPU-c", index=0, minor=4),
    DeviceGrant(vendor="iluvatar", uuid="GPU-d", index=3, minor=7),
)


def test_a_replica_without_devices_sees_none() -> None:
    assert process_environment(()) == {"CUDA_VISIBLE_DEVICES": ""}
    assert container_devices(()).env == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert container_devices((DeviceGrant(vendor="cpu", uuid="cpu-0", index=0),)).uuids == ()


def test_nvidia_devices_are_named_by_uuid() -> None:
    assert process_environment(NVIDIA)["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    devices = container_devices(NVIDIA)
    assert devices.uuids == ("GPU-a", "GPU-b")
    assert devices.env["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert devices.nodes == ()


def test_iluvatar_devices_are_nodes_and_indexes() -> None:
    devices = container_devices(ILUVATAR)
    assert devices.nodes == ("/dev/iluvatar4", "/dev/iluvatar7", "/dev/itrctl")
    assert devices.mounts == ("/usr/local/corex",)
    assert devices.env["IX_VISIBLE_DEVICES"] == "0,3"
    assert devices.env["LD_LIBRARY_PATH"] == "/usr/local/corex/lib64"
    assert process_environment(ILUVATAR)["IX_VISIBLE_DEVICES"] == "0,3"


@pytest.mark.parametrize(
    "devices",
    [
        (NVIDIA[0], ILUVATAR[0]),
        (DeviceGrant(vendor="unheard-of", uuid="x", index=0),),
        (DeviceGrant(vendor="iluvatar", uuid="x", index=0, minor=None),),
    ],
)
def test_what_cannot_be_handed_over_is_refused(devices: tuple[DeviceGrant, ...]) -> None:
    with pytest.raises(StartRefused):
        container_devices(devices)
