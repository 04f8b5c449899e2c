"""One launcher under test: its folders, specs for tiny engines, and what really runs, told by /proc."""

import shutil
import signal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.kernel.ids import new_id
from appliance.launchers.contract import (
    APPLIANCE_LABEL,
    REPLICA_LABEL,
    DeviceGrant,
    Launcher,
    Limits,
    ObservedReplica,
    ReplicaSpec,
    ReplicaState,
)
from appliance.launchers.docker.launcher import DockerLauncher
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.process.launcher import ProcessLauncher
from tests.support.docker import BUSYBOX_IMAGE
from tests.support.processes import Process, ProcessTable, eventually_async

SERVE: Final = "echo up; exec sleep 600"
DEAF: Final = 'trap "" TERM; echo deaf; while :; do sleep 1; done'
FAMILY: Final = "sleep 600 & setsid sleep 600 & (setsid sleep 600 &) ; echo up; exec sleep 600"
"""An engine with a child, one in a session of its own, and one that is nobody's child any more."""

MARK: Final = "TEST_MARK"
"""In the environment of every engine of a workbench, in a container or not."""


@dataclass
class Workbench:
    kind: str
    home: Path
    docker_host: str | None
    appliance_id: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    opened: list[Launcher] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.home / "e"

    def launcher(self) -> Launcher:
        """A fresh instance, as after a restart of the control plane."""
        launcher: Launcher
        if self.docker_host is None:
            launcher = ProcessLauncher(self.appliance_id, root=self.root)
        else:
            settings = DockerSettings(host=self.docker_host)
            launcher = DockerLauncher(self.appliance_id, root=self.root, settings=settings)
        self.opened.append(launcher)
        return launcher

    def spec(
        self,
        script: str = SERVE,
        *,
        argv: Sequence[str] | None = None,
        replica_id: str | None = None,
        limits: Limits | None = None,
        devices: tuple[DeviceGrant, ...] = (),
        image: str = BUSYBOX_IMAGE,
    ) -> ReplicaSpec:
        replica_id = replica_id or new_id("rpl")
        run_dir = self.root / replica_id
        launcher = self.launcher()
        layout = launcher.layout(run_dir=run_dir, model_dir=self.model_dir, cache_dir=self.cache_dir)
        return ReplicaSpec(
            replica_id=replica_id,
            labels={APPLIANCE_LABEL: self.appliance_id, REPLICA_LABEL: replica_id, "generation": "1"},
            argv=tuple(argv or ("sh", "-c", script)),
            env={
                MARK: self.appliance_id,
                "SOCKET": str(layout.socket),
                "MODEL": str(layout.model),
                "CACHE": str(layout.cache),
            },
            run_dir=run_dir,
            log_path=self.log_path(replica_id),
            model_dir=self.model_dir,
            cache_dir=self.cache_dir,
            image=None if self.docker_host is None else image,
            limits=limits or Limits(),
            devices=devices,
        )

    @property
    def model_dir(self) -> Path:
        return self.home / "model"

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    def log_path(self, replica_id: str) -> Path:
        return self.home / "logs" / f"{replica_id}.log"

    def kept_log(self, replica_id: str) -> str:
        return self.log_path(replica_id).read_text()

    def engines(self) -> list[Process]:
        """Every process that an engine of this workbench is, or has started, and that still runs."""
        marked = ProcessTable.snapshot().with_environ(MARK, self.appliance_id)
        return [process for process in marked if not process.is_zombie]

    async def exited(self, replica_id: str, launcher: Launcher | None = None) -> ObservedReplica:
        """The replica once it has ended."""
        launcher = launcher or self.launcher()

        async def ended() -> ObservedReplica | None:
            replica = await one(launcher, replica_id)
            return replica if replica.state is ReplicaState.EXITED else None

        observed = await eventually_async(ended, 20)
        assert observed is not None
        return observed

    async def printed(self, replica_id: str, line: str) -> None:
        """Waits until the engine has printed the line."""
        launcher = self.launcher()

        async def there() -> bool:
            return line in await launcher.logs(replica_id)

        await eventually_async(there, 20)

    async def clear(self) -> None:
        """Ends what the test left, through the launcher, and shows that nothing of it stays."""
        launcher = self.launcher()
        for replica in await launcher.list():
            await launcher.stop(replica.replica_id, grace_s=0)
            await launcher.remove(replica.replica_id)
        assert await launcher.list() == []
        assert self.engines() == []
        for opened in self.opened:
            await opened.close()
        shutil.rmtree(self.home)


async def one(launcher: Launcher, replica_id: str) -> ObservedReplica:
    (found,) = [replica for replica in await launcher.list() if replica.replica_id == replica_id]
    return found


def ended_by(observed: ObservedReplica) -> tuple[int | None, int | None]:
    """Code and signal of an exited replica."""
    assert observed.exit is not None
    return observed.exit.code, observed.exit.signal


BY_TERM: Final = (None, int(signal.SIGTERM))
BY_KILL: Final = (None, int(signal.SIGKILL))
