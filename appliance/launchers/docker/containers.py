"""From a replica's spec to the arguments of `POST /containers/create`; pure.

What a container may not do is said here and nowhere else: no network, no capability, no new privilege, no writable
root, nothing of the host but its socket's folder, its cache, and the model for reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

from docker.types import DeviceRequest, LogConfig, Mount

from appliance.launchers.contract import EngineLayout, ReplicaSpec
from appliance.launchers.devices import NO_DEVICE, VISIBLE_TO_NVIDIA, ContainerDevices, container_devices
from appliance.launchers.docker.injection import Injection, cdi_name
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.paths import host_socket

LOG_LABEL = "appliance-launcher.log"
RUN_DIR = Path("/run/appliance")
MODEL_DIR = Path("/model")
CACHE_DIR = Path("/cache")
_TMP_DIR = "/tmp"  # noqa: S108 - the container's own
_NANO = 1_000_000_000


def container_name(replica_id: str) -> str:
    return f"appliance-{replica_id}"


def layout(*, model_dir: Path | None, cache_dir: Path | None) -> EngineLayout:
    return EngineLayout(
        socket=host_socket(RUN_DIR),
        model=MODEL_DIR if model_dir is not None else None,
        cache=CACHE_DIR if cache_dir is not None else None,
    )


def configuration(
    spec: ReplicaSpec, settings: DockerSettings, injection: Injection = Injection.driver
) -> dict[str, Any]:
    """Arguments of `APIClient.create_container`, without the host's part."""
    devices = container_devices(spec.devices)
    # A daemon whose default runtime is NVIDIA's reads the variable too, and would inject what CDI has injected.
    by_cdi = {VISIBLE_TO_NVIDIA: NO_DEVICE} if injection is Injection.cdi else {}
    home = str(CACHE_DIR) if spec.cache_dir is not None else _TMP_DIR
    uid, gid = settings.owner()
    return {
        "image": spec.image,
        "name": container_name(spec.replica_id),
        # The whole command is the entrypoint: the image's own entrypoint and command have no say.
        "entrypoint": list(spec.argv),
        "environment": {"HOME": home, "LANG": "C.UTF-8", **spec.env, **devices.env, **by_cdi},
        "labels": {**spec.labels, LOG_LABEL: str(spec.log_path)},
        "user": f"{uid}:{gid}",
        "working_dir": home,
        "stop_signal": "SIGTERM",
        # Not the proxies of the configuration file of whoever runs the control plane.
        "use_config_proxy": False,
    }


def host_configuration(
    spec: ReplicaSpec, settings: DockerSettings, injection: Injection = Injection.driver
) -> dict[str, Any]:
    """Arguments of `APIClient.create_host_config`."""
    limits = spec.limits
    devices = container_devices(spec.devices)
    tmp_bytes = limits.tmp_bytes or settings.tmp_bytes
    return {
        "network_mode": "none",
        "ipc_mode": "private",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        # Programs may run from it: engines compile kernels there.
        "tmpfs": {_TMP_DIR: f"rw,nosuid,nodev,exec,mode=1777,size={tmp_bytes}"},
        "shm_size": settings.shm_bytes,
        "mounts": _mounts(spec, devices),
        "pids_limit": limits.pids,
        "nano_cpus": round(limits.cpus * _NANO) if limits.cpus is not None else None,
        "mem_limit": limits.memory_bytes,
        # Memory and swap together: no swap.
        "memswap_limit": limits.memory_bytes,
        "log_config": LogConfig(
            type=LogConfig.types.JSON, config={"max-size": str(settings.log_bytes), "max-file": "2"}
        ),
        "init": True,
        "restart_policy": {"Name": "no"},
        "devices": [f"{node}:{node}:rw" for node in devices.nodes],
        "device_requests": _device_requests(devices.uuids, injection) if devices.uuids else None,
    }


def _device_requests(uuids: Sequence[str], injection: Injection) -> list[DeviceRequest]:
    match injection:
        case Injection.cdi:
            return [DeviceRequest(driver="cdi", device_ids=[cdi_name(uuid) for uuid in uuids])]
        case Injection.driver:
            return [DeviceRequest(driver="nvidia", device_ids=list(uuids), capabilities=[["gpu"]])]
        case _:
            assert_never(injection)


def _mounts(spec: ReplicaSpec, devices: ContainerDevices) -> list[Mount]:
    mounts = [_bind(spec.run_dir, RUN_DIR)]
    if spec.model_dir is not None:
        mounts.append(_bind_read_only(spec.model_dir, MODEL_DIR))
    if spec.cache_dir is not None:
        mounts.append(_bind(spec.cache_dir, CACHE_DIR))
    return mounts + [_bind_read_only(Path(path), Path(path)) for path in devices.mounts]


def _bind(source: Path, target: Path) -> Mount:
    """A source that does not exist is an error, and not made by the daemon as a bind in the short form would be."""
    return Mount(str(target), str(source), type="bind", propagation="rprivate")


def _bind_read_only(source: Path, target: Path) -> Mount:
    return Mount(str(target), str(source), type="bind", propagation="rprivate", read_only=True)
