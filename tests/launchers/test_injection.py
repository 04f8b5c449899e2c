"""How devices get into containers: what is asked of the daemon, and which toolkits are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from appliance.launchers.contract import DeviceGrant, ReplicaSpec
from appliance.launchers.docker.containers import configuration, host_configuration
from appliance.launchers.docker.injection import Injection, check_toolkit, choose, toolkit_version
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.errors import StartRefused
from tests.launchers.test_devices import ILUVATAR, NVIDIA

SPEC = ReplicaSpec(
    replica_id="rpl_1",
    labels={},
    argv=("true",),
    env={},
    run_dir=Path("/srv/run"),
    log_path=Path("/srv/log"),
    image="example/engine:1",
)
UUIDS = ("GPU-a", "GPU-b")
SPECIFICATION = """
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {}
- name: GPU-a
- name: GPU-b
- name: all
"""


def asked(devices: tuple[DeviceGrant, ...], injection: Injection = Injection.driver) -> tuple[Any, Any]:
    """The environment and the host's part of `POST /containers/create`."""
    spec, settings = structs.replace(SPEC, devices=devices), DockerSettings()
    return configuration(spec, settings, injection)["environment"], host_configuration(spec, settings, injection)


def test_by_cdi_each_device_is_named_and_nothing_else() -> None:
    environ, host = asked(NVIDIA, Injection.cdi)
    (request,) = host["device_requests"]
    assert request["Driver"] == "cdi"
    assert request["DeviceIDs"] == ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]
    assert not request["Count"]
    assert host["devices"] == []
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "void"  # or a default runtime of NVIDIA's injects them again


def test_by_the_driver_each_device_is_named_and_nothing_else() -> None:
    environ, host = asked(NVIDIA)
    (request,) = host["device_requests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("nvidia", ["GPU-a", "GPU-b"])
    assert host["devices"] == []
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_iluvatar_devices_are_nodes_by_minor_and_seen_by_index() -> None:
    environ, host = asked(ILUVATAR)
    assert host["device_requests"] is None
    assert host["devices"] == [
        "/dev/iluvatar4:/dev/iluvatar4:rw",
        "/dev/iluvatar7:/dev/iluvatar7:rw",
        "/dev/itrctl:/dev/itrctl:rw",
    ]
    corex = [mount for mount in host["mounts"] if mount["Target"] == "/usr/local/corex"]
    assert [mount["ReadOnly"] for mount in corex] == [True]
    assert environ["IX_VISIBLE_DEVICES"] == "0,3"
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_without_devices_there_are_none() -> None:
    environ, host = asked(())
    assert host["device_requests"] is None
    assert host["devices"] == []
    assert environ["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert not host.get("privileged")


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_cdi_is_used_where_the_daemon_has_it_for_these_devices(tmp_path: Path, suffix: str) -> None:
    names = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", *UUIDS)]
    assert choose({"DiscoveredDevices": names}, UUIDS) is Injection.cdi
    assert choose({"DiscoveredDevices": names}, ("GPU-a", "GPU-new")) is Injection.driver
    info = {"CDISpecDirs": [str(tmp_path), str(tmp_path / "none")]}
    assert choose(info, UUIDS) is Injection.driver
    text = (
        SPECIFICATION if suffix == "yaml" else '{"kind":"nvidia.com/gpu","devices":[{"name":"GPU-a"},{"name":"GPU-b"}]}'
    )
    (tmp_path / f"nvidia.{suffix}").write_text(text)
    assert choose(info, UUIDS) is Injection.cdi
    assert choose(info, ("GPU-a", "GPU-new")) is Injection.driver
    assert choose({"CDISpecDirs": []}, UUIDS) is Injection.driver
    assert choose({"ServerVersion": "20.10.24"}, UUIDS) is Injection.driver


def tool(folder: Path, said: str, name: str = "nvidia-ctk", *, code: int = 0) -> str:
    """A folder with a program that says its version."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{said}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80a9b9d0db00d9b1d73c0128c8962c55f4d", (1, 17, 8)),
        ("NVIDIA Container Toolkit CLI version 1.18.0-rc.2\ncommit: 1234567.1.2.3", (1, 18, -1)),
        ("NVIDIA Container Runtime version 1.13.5\ncommit: 6b8589dcb4dead72ab64f14a5912886e6165c079", (1, 13, 5)),
        ("version: v1.17.7", (1, 17, 7)),
        ("no such thing", None),
    ],
)
def test_the_toolkit_tells_its_version(tmp_path: Path, said: str, version: tuple[int, int, int] | None) -> None:
    assert toolkit_version(path=tool(tmp_path, said)) == version


def test_the_runtime_is_asked_where_the_tool_is_not_there(tmp_path: Path) -> None:
    path = tool(tmp_path, "NVIDIA Container Runtime version 1.17.9", "nvidia-container-runtime")
    assert toolkit_version(path=path) == (1, 17, 9)


@pytest.mark.parametrize("version", ["1.17.8", "1.18.0", "2.0.0"])
def test_a_toolkit_without_the_escape_is_taken(tmp_path: Path, version: str) -> None:
    check_toolkit(path=tool(tmp_path, f"NVIDIA Container Toolkit CLI version {version}"))


@pytest.mark.parametrize("version", ["1.17.7", "1.17.8-rc.1", "1.9.20", "0.99.99"])
def test_an_older_toolkit_is_refused_with_the_remedy(tmp_path: Path, version: str) -> None:
    with pytest.raises(StartRefused, match=r"CVE-2025-23266.*install 1\.17\.8 or later.*docker\.allow_old_toolkit"):
        check_toolkit(path=tool(tmp_path, f"NVIDIA Container Toolkit CLI version {version}"))


def test_an_unknown_toolkit_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="cannot be found"):
        check_toolkit(path=str(tmp_path))
