"""What only the Docker launcher promises: how closed a container is, what is not ours, and a daemon in trouble."""

import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.errors import APIError
from msgspec import structs

from appliance.launchers.contract import DeviceGrant, Limits, ReplicaSpec, ReplicaState
from appliance.launchers.devices import COREX_HOME
from appliance.launchers.docker.launcher import DockerLauncher
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.errors import ImageMissing, LauncherUnavailable, ReplicaUnknown, StartRefused
from tests.launchers.daemon import Daemon, tree_of
from tests.launchers.workbench import BY_KILL, Workbench, ended_by, one
from tests.support.docker import BUSYBOX_IMAGE
from tests.support.processes import eventually_async
from tests.support.requirements import Requirement, unavailable

pytestmark = pytest.mark.docker

ALWAYS = {f"./{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero")}
"""The devices that Docker makes for every container."""


@pytest.fixture
def api(docker_host: str) -> Iterator[APIClient]:
    """The daemon, past the launcher."""
    with closing(APIClient(docker_host, version="auto", timeout=30)) as client:
        yield client


def _launcher(bench: Workbench) -> DockerLauncher:
    launcher = bench.launcher()
    assert isinstance(launcher, DockerLauncher)
    return launcher


async def _inspected(bench: Workbench, api: APIClient, spec: ReplicaSpec) -> dict[str, Any]:
    answer: dict[str, Any] = api.inspect_container(await bench.launcher().start(spec))
    return answer


async def test_a_container_is_closed(docker_bench: Workbench, api: APIClient) -> None:
    limits = Limits(cpus=0.5, memory_bytes=64 << 20, pids=100, tmp_bytes=1 << 20)
    inspected = await _inspected(docker_bench, api, docker_bench.spec(limits=limits))
    host, config = inspected["HostConfig"], inspected["Config"]

    assert host["NetworkMode"] == "none"
    assert host["PortBindings"] in (None, {})
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["Init"] is True
    assert host["IpcMode"] == "private"
    assert (host["NanoCpus"], host["PidsLimit"]) == (500_000_000, 100)
    assert host["Memory"] == host["MemorySwap"] == 64 << 20
    assert "size=1048576" in host["Tmpfs"]["/tmp"]
    assert host["LogConfig"]["Type"] == "json-file"
    assert host["LogConfig"]["Config"] == {"max-size": str(16 << 20), "max-file": "2"}
    assert config["User"] == "10001:10001"


async def test_the_engine_can_write_where_it_must_and_nowhere_else(docker_bench: Workbench) -> None:
    probe = (
        'for file in "$SOCKET" "$CACHE/x" /tmp/x /x /etc/x "$MODEL/x"; do '
        '(echo > "$file") 2>/dev/null && echo "$file"; done;'
        'id -u; grep -c : /proc/net/dev; grep -E "^(CapEff|NoNewPrivs)" /proc/self/status; umask'
    )
    spec = docker_bench.spec(probe)
    await docker_bench.launcher().start(spec)
    await docker_bench.exited(spec.replica_id)

    written, told = (lines := await docker_bench.launcher().logs(spec.replica_id))[:3], lines[3:]

    assert written == ["/run/appliance/engine.sock", "/cache/x", "/tmp/x"]
    # One network interface: the loopback.
    assert told[:4] == ["10001", "1", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]


async def test_the_images_own_command_has_no_say(docker_bench: Workbench, api: APIClient) -> None:
    container = api.create_container(BUSYBOX_IMAGE, ["true"])["Id"]
    tag = f"test/{docker_bench.appliance_id}"
    api.commit(container, tag, changes='ENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]')
    api.remove_container(container)
    spec = docker_bench.spec("echo ours", image=tag)
    await docker_bench.launcher().start(spec)
    await docker_bench.exited(spec.replica_id)
    assert await docker_bench.launcher().logs(spec.replica_id) == ["ours"]
    await docker_bench.launcher().remove(spec.replica_id)
    api.remove_image(tag)


async def test_a_program_that_is_not_there_shows_as_127(docker_bench: Workbench) -> None:
    spec = docker_bench.spec(argv=["/no/such/program"])
    await docker_bench.launcher().start(spec)
    observed = await docker_bench.exited(spec.replica_id)
    assert ended_by(observed) == (127, None)
    assert observed.exit is not None
    assert "/no/such/program" in "".join(observed.exit.last_lines)


async def test_an_image_that_is_missing_is_named(docker_bench: Workbench) -> None:
    spec = docker_bench.spec(image="test/no-such-image:1")
    with pytest.raises(ImageMissing, match="test/no-such-image:1"):
        await docker_bench.launcher().start(spec)
    assert await docker_bench.launcher().list() == []
    assert not spec.run_dir.exists()


async def test_an_image_is_found_by_name_and_by_content(docker_bench: Workbench) -> None:
    launcher = _launcher(docker_bench)
    assert await launcher.exists(BUSYBOX_IMAGE)
    assert not await launcher.exists("test/no-such-image:1")
    with pytest.raises(ImageMissing):
        await launcher.inspect_image("test/no-such-image:1")
    image = await launcher.inspect_image(BUSYBOX_IMAGE)
    assert image.image_id.startswith("sha256:")
    assert image.size_bytes > 100_000

    spec = docker_bench.spec(image=image.image_id)
    await launcher.start(spec)
    assert (await one(launcher, spec.replica_id)).state is ReplicaState.RUNNING


async def test_memory_beyond_the_limit_is_told(docker_bench: Workbench) -> None:
    spec = docker_bench.spec("exec dd if=/dev/zero of=/dev/null bs=300M count=1", limits=Limits(memory_bytes=32 << 20))
    await docker_bench.launcher().start(spec)
    observed = await docker_bench.exited(spec.replica_id)
    assert ended_by(observed) == BY_KILL
    assert observed.exit is not None
    assert observed.exit.out_of_memory


async def test_a_device_that_docker_cannot_give_is_refused_and_leaves_nothing(docker_bench: Workbench) -> None:
    """This machine has neither vendor's container toolkit nor its device nodes."""
    for device in (
        DeviceGrant(vendor="nvidia", uuid="GPU-0", index=0, minor=0),
        DeviceGrant(vendor="iluvatar", uuid="GPU-1", index=0, minor=0),
    ):
        spec = docker_bench.spec(devices=(device,))
        with pytest.raises(StartRefused):
            await docker_bench.launcher().start(spec)
        assert not spec.run_dir.exists()
    assert await docker_bench.launcher().list() == []


async def test_a_container_that_is_not_ours_is_never_touched(docker_bench: Workbench, api: APIClient) -> None:
    """Not one without labels, not one that took a name of ours, not one that inherited our labels from an image."""
    spec = docker_bench.spec()
    labels = {**spec.labels, "replica": "rpl_inherited"}
    foreign = [
        api.create_container(BUSYBOX_IMAGE, ["sleep", "600"])["Id"],
        api.create_container(BUSYBOX_IMAGE, ["sleep", "600"], name=f"appliance-{spec.replica_id}")["Id"],
        api.create_container(BUSYBOX_IMAGE, ["sleep", "600"], labels=labels)["Id"],
    ]
    for container in foreign:
        api.start(container)
    launcher = docker_bench.launcher()

    assert await launcher.list() == []
    with pytest.raises(StartRefused, match="not this appliance's"):
        await launcher.start(spec)
    await launcher.stop(spec.replica_id, grace_s=0)
    await launcher.remove(spec.replica_id)
    with pytest.raises(ReplicaUnknown):
        await launcher.logs(spec.replica_id)

    for container in foreign:
        assert api.inspect_container(container)["State"]["Running"]
        api.remove_container(container, force=True)


async def test_nothing_secret_or_foreign_is_in_what_docker_tells(docker_bench: Workbench, api: APIClient) -> None:
    spec = docker_bench.spec()
    inspected = await _inspected(docker_bench, api, spec)
    assert inspected["Config"]["Labels"] == {**spec.labels, "appliance-launcher.log": str(spec.log_path)}
    names = {entry.partition("=")[0] for entry in inspected["Config"]["Env"]}
    assert names == {"PATH", "HOME", "LANG", "NVIDIA_VISIBLE_DEVICES", *spec.env}


@pytest.mark.alone
async def test_a_daemon_that_is_down_is_unreachable_and_nothing_is_gone() -> None:
    launcher = DockerLauncher("test", root=Path("/tmp/e"), settings=DockerSettings(host="unix:///tmp/no-such.sock"))
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(LauncherUnavailable, match="No such file"):
            await launcher.list()
    assert time.monotonic() - began < 2
    await launcher.close()


@pytest.fixture
async def own_daemon(docker_bench: Workbench, api: APIClient) -> AsyncIterator[tuple[Daemon, Workbench]]:
    """A daemon for this test alone, and a workbench on it."""
    with Daemon.started() as daemon:
        with closing(daemon.client()) as client:
            repository, _, tag = BUSYBOX_IMAGE.partition(":")
            client.import_image_from_data(tree_of(api, BUSYBOX_IMAGE), repository=repository, tag=tag)
        bench = Workbench("docker", docker_bench.home / "own", daemon.host)
        bench.home.mkdir()
        bench.model_dir.mkdir()
        yield daemon, bench
        await bench.clear()


async def test_a_daemon_that_is_killed_loses_no_replica(own_daemon: tuple[Daemon, Workbench]) -> None:
    """Without `live-restore` the daemon ends its containers when it comes back: exited, and not gone."""
    daemon, bench = own_daemon
    spec = bench.spec()
    launcher = bench.launcher()
    handle = await launcher.start(spec)
    await bench.printed(spec.replica_id, "up")

    daemon.kill()
    with pytest.raises(LauncherUnavailable):
        await launcher.list()
    with pytest.raises(LauncherUnavailable):
        await launcher.stop(spec.replica_id, grace_s=0)
    daemon.start()

    observed = await eventually_async(lambda: one(launcher, spec.replica_id), 30, ignoring=(LauncherUnavailable,))
    assert observed.handle == handle
    assert observed.state is ReplicaState.EXITED
    assert await launcher.start(spec) == handle


@pytest.mark.alone
async def test_a_daemon_that_hangs_is_noticed_once_and_found_again(own_daemon: tuple[Daemon, Workbench]) -> None:
    daemon, bench = own_daemon
    spec = bench.spec()
    launcher = bench.launcher()
    handle = await launcher.start(spec)
    daemon.signal(signal.SIGSTOP)

    began = time.monotonic()
    with pytest.raises(LauncherUnavailable, match="not answer"):
        await launcher.start(bench.spec())
    first = time.monotonic() - began
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(LauncherUnavailable):
            await launcher.list()
    assert first < 4
    assert time.monotonic() - began < 0.5
    assert len(bench.engines()) >= 1

    daemon.signal(signal.SIGCONT)
    found = await eventually_async(lambda: one(launcher, spec.replica_id), 30, ignoring=(LauncherUnavailable,))
    assert (found.state, found.handle) == (ReplicaState.RUNNING, handle)


async def test_a_start_that_a_hanging_daemon_swallowed_is_finished_later(
    own_daemon: tuple[Daemon, Workbench],
) -> None:
    daemon, bench = own_daemon
    spec = bench.spec("echo up; exec sleep 600")
    daemon.signal(signal.SIGSTOP)
    with pytest.raises(LauncherUnavailable):
        await bench.launcher().start(spec)
    daemon.signal(signal.SIGCONT)

    await eventually_async(lambda: bench.launcher().start(spec), 30, ignoring=(LauncherUnavailable, APIError))

    await bench.printed(spec.replica_id, "up")
    assert len(await bench.launcher().list()) == 1


async def test_docker_without_an_image_is_refused(docker_bench: Workbench) -> None:
    with pytest.raises(StartRefused, match="image"):
        await docker_bench.launcher().start(structs.replace(docker_bench.spec(), image=None))


async def test_a_container_sees_no_device_of_the_host(docker_bench: Workbench) -> None:
    """What Docker makes for every container, and nothing else of /dev."""
    spec = docker_bench.spec("cd /dev && find . -type c -o -type b | sort")
    await docker_bench.launcher().start(spec)
    await docker_bench.exited(spec.replica_id)
    seen = set(await docker_bench.launcher().logs(spec.replica_id))
    assert seen == ALWAYS


@pytest.fixture
def corex() -> Iterator[tuple[DeviceGrant, ...]]:
    """Two devices of which one is granted: nodes that lead nowhere, and the folder that engines read."""
    if os.geteuid() or Path("/dev/itrctl").exists():
        unavailable(Requirement.DOCKER, "device nodes can be made by root alone, where there are none of that vendor")
    nodes, folder = [Path(f"/dev/{name}") for name in ("iluvatar240", "iluvatar241", "itrctl")], Path(COREX_HOME)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for node in nodes:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        yield (DeviceGrant(vendor="iluvatar", uuid="GPU-c", index=3, minor=240),)
    finally:
        for node in nodes:
            node.unlink(missing_ok=True)
        if made:
            folder.rmdir()


async def test_a_container_sees_the_devices_of_its_replica_alone(
    docker_bench: Workbench, corex: tuple[DeviceGrant, ...]
) -> None:
    probe = (
        "cd /dev && find . -type c -o -type b | sort; echo $IX_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES;"
        f"(echo > {COREX_HOME}/x) 2>/dev/null && echo written"
    )
    spec = docker_bench.spec(probe, devices=corex)
    await docker_bench.launcher().start(spec)
    await docker_bench.exited(spec.replica_id)
    *seen, environ = await docker_bench.launcher().logs(spec.replica_id)
    assert set(seen) == ALWAYS | {"./iluvatar240", "./itrctl"}
    assert environ == "3 void"


async def test_nvidia_devices_need_a_toolkit_that_is_known_to_be_safe(docker_bench: Workbench) -> None:
    """This machine has none; the setting runs it all the same, as far as a daemon without the driver goes."""
    devices = (DeviceGrant(vendor="nvidia", uuid="GPU-a", index=0, minor=0),)
    spec = docker_bench.spec(devices=devices)
    with pytest.raises(StartRefused, match="CVE-2025-23266"):
        await docker_bench.launcher().start(spec)
    assert await docker_bench.launcher().list() == []
    assert not spec.run_dir.exists()
