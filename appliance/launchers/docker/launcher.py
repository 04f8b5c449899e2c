"""The launcher of containers. Nothing is remembered but what cannot change: the daemon is asked each time."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from pathlib import Path

import msgspec
import structlog
from docker import APIClient
from docker.errors import APIError, NotFound

from appliance.kernel.clock import Clock, SystemClock
from appliance.kernel.crashpoints import reached
from appliance.kernel.progress import Progress
from appliance.launchers.contract import (
    APPLIANCE_LABEL,
    LAST_LINES,
    EngineLayout,
    ImageInfo,
    ImageStore,
    ObservedReplica,
    ReplicaSpec,
    ReplicaState,
    Stats,
)
from appliance.launchers.devices import container_devices
from appliance.launchers.docker import logs, pulling
from appliance.launchers.docker.answers import (
    Container,
    ContainerStats,
    ContainerSummary,
    Image,
    refusal,
    state_of,
)
from appliance.launchers.docker.containers import (
    LOG_LABEL,
    configuration,
    container_name,
    host_configuration,
    layout,
)
from appliance.launchers.docker.daemon import DockerDaemon
from appliance.launchers.docker.injection import Injection, check_toolkit, choose
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.errors import (
    ImageMissing,
    LauncherUnavailable,
    ReplicaRunning,
    ReplicaUnknown,
    StartRefused,
    StopIncomplete,
)
from appliance.launchers.paths import check_spec, make_cache_dir, make_run_dir, replica_dir

# Creating and starting may have to set up devices and layers on a busy machine.
_SLOW_S = 60
_KILL_S = 10.0
_CONFLICT_S = 5.0

_log = structlog.stdlib.get_logger()
_FIRST_POLL_S = 0.02
_LAST_POLL_S = 0.5


class DockerLauncher:
    """`root` is the folder of all replicas' folders; containers are named `appliance-<replica id>`.

    A spec's labels are the container's.
    """

    name = "docker"
    isolates = True

    @property
    def images(self) -> ImageStore:
        return self

    def __init__(
        self,
        appliance_id: str,
        *,
        root: Path,
        settings: DockerSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._appliance_id = appliance_id
        self._root = root
        self._settings = settings or DockerSettings()
        self._clock = clock or SystemClock()
        self._daemon = DockerDaemon(self._settings.host, self._clock)
        self._seen: dict[str, ObservedReplica] = {}

    def layout(self, *, run_dir: Path, model_dir: Path | None, cache_dir: Path | None) -> EngineLayout:  # noqa: ARG002 - the contract's; a container's folders have fixed names
        return layout(model_dir=model_dir, cache_dir=cache_dir)

    async def start(self, spec: ReplicaSpec) -> str:
        check_spec(spec, appliance_id=self._appliance_id, root=self._root)
        if spec.image is None:
            raise StartRefused("The Docker launcher needs an image.")
        await self._daemon.ping()
        await asyncio.to_thread(self._make_folders, spec)
        try:
            return await self._create_and_start(spec)
        except (ImageMissing, StartRefused):
            await asyncio.to_thread(shutil.rmtree, spec.run_dir, ignore_errors=True)
            raise

    async def list(self) -> Sequence[ObservedReplica]:
        label = f"{APPLIANCE_LABEL}={self._appliance_id}"
        found = await self._daemon.call(lambda client: client.containers(all=True, filters={"label": [label]}))
        summaries = msgspec.convert(found, type=tuple[ContainerSummary, ...])
        observed = await asyncio.gather(*map(self._observe, summaries))
        self._seen = {one.handle: one for one in observed if one is not None}
        return [*self._seen.values()]

    async def stop(self, replica_id: str, *, grace_s: float) -> None:
        container = await self._find(replica_id)
        if container is None:
            return
        if grace_s > 0:
            await self._kill(container.id, "SIGTERM")
            reached("launcher.docker.stop_requested")
            if await self._ended_within(container.id, grace_s):
                return
        await self._kill(container.id, "SIGKILL")
        if not await self._ended_within(container.id, _KILL_S):
            raise StopIncomplete(f"The container of replica {replica_id} was killed and is still there.")
        reached("launcher.docker.stopped")

    async def remove(self, replica_id: str) -> None:
        container = await self._find(replica_id)
        if container is not None:
            if container.replica_state is ReplicaState.RUNNING:
                raise ReplicaRunning(f"Replica {replica_id} runs.")
            await self._keep_log(container)
            reached("launcher.docker.log_kept")
            await self._discard(container.id)
            reached("launcher.docker.removed")
        await asyncio.to_thread(shutil.rmtree, replica_dir(self._root, replica_id), ignore_errors=True)

    async def logs(self, replica_id: str, *, tail: int | None = None) -> Sequence[str]:
        container = await self._known(replica_id)
        return await self._lines(container.id, tail)

    async def follow(self, replica_id: str) -> AsyncIterator[str]:
        container = await self._known(replica_id)

        async def is_running() -> bool:
            now = await self._find(replica_id)
            return now is not None and now.replica_state is ReplicaState.RUNNING

        async for line in logs.follow(self._daemon, container.id, is_running=is_running):
            yield line

    async def stats(self, replica_id: str) -> Stats:
        container = await self._known(replica_id)
        answer = await self._daemon.call(lambda client: client.stats(container.id, stream=False, one_shot=True))
        return msgspec.convert(answer, type=ContainerStats).stats()

    async def exists(self, image: str) -> bool:
        try:
            await self.inspect_image(image)
        except ImageMissing:
            return False
        return True

    async def pull(self, image: str, progress: Progress) -> None:
        if not pulling.may_pull(image):
            raise pulling.missing(image)
        await self._daemon.follow(lambda client: pulling.pull(client, image, progress), silence_s=pulling.SILENCE_S)
        reached("launcher.docker.pulled")

    async def inspect_image(self, image: str) -> ImageInfo:
        try:
            answer = await self._daemon.call(lambda client: client.inspect_image(image))  # type: ignore[no-untyped-call]
        except NotFound:
            raise ImageMissing(f"The image {image} is not on this machine.") from None
        found = msgspec.convert(answer, type=Image)
        return ImageInfo(image_id=found.id, digests=tuple(found.repo_digests or ()), size_bytes=found.size)

    async def close(self) -> None:
        await self._daemon.close()

    def _make_folders(self, spec: ReplicaSpec) -> None:
        uid, gid = self._settings.owner()
        make_run_dir(spec.run_dir, uid=uid, gid=gid)
        if spec.cache_dir is not None:
            make_cache_dir(spec.cache_dir, uid=uid, gid=gid)

    async def _create_and_start(self, spec: ReplicaSpec) -> str:
        container_id, state = await self._create(spec)
        if state is not ReplicaState.CREATED:
            return container_id
        reached("launcher.docker.created")
        try:
            await self._daemon.call(lambda client: client.start(container_id), timeout_s=_SLOW_S)
        except APIError as error:
            await self._discard(container_id)
            raise refusal(error, spec.image) from error
        reached("launcher.docker.started")
        return container_id

    async def _create(self, spec: ReplicaSpec) -> tuple[str, ReplicaState]:
        """The replica's container: a new one, or the one that another call made.

        A name is taken a moment before its container can be inspected, and free a moment after it cannot any more:
        meanwhile the answer is a conflict with nothing, and the question is asked again.
        """
        deadline = self._clock.monotonic() + _CONFLICT_S
        while True:
            try:
                return await self._create_new(spec), ReplicaState.CREATED
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise refusal(error, spec.image) from error
            container = await self._inspect(container_name(spec.replica_id))
            if container is not None and not container.belongs_to(self._appliance_id):
                raise StartRefused(
                    f"A container named {container_name(spec.replica_id)} exists that is not this appliance's; "
                    "rename or remove it."
                )
            if container is not None and container.replica_state is not None:
                return container.id, container.replica_state
            if self._clock.monotonic() > deadline:
                raise LauncherUnavailable(f"The container of replica {spec.replica_id} is being made or removed.")
            await asyncio.sleep(_FIRST_POLL_S)

    async def _create_new(self, spec: ReplicaSpec) -> str:
        injection = await self._injection(spec)
        arguments = configuration(spec, self._settings, injection)
        host_arguments = host_configuration(spec, self._settings, injection)

        def create(client: APIClient) -> str:
            answer = client.create_container(**arguments, host_config=client.create_host_config(**host_arguments))
            return str(answer["Id"])

        return await self._daemon.call(create, timeout_s=_SLOW_S)

    async def _injection(self, spec: ReplicaSpec) -> Injection:
        """How the devices get into the container; refused where the toolkit that does it is not safe."""
        uuids = container_devices(spec.devices).uuids
        if not uuids:
            return Injection.driver
        if not self._settings.allow_old_toolkit:
            await asyncio.to_thread(check_toolkit)
        info = await self._daemon.call(lambda client: client.info())
        return await asyncio.to_thread(choose, info, uuids)

    async def _inspect(self, container: str) -> Container | None:
        """By name or id; None when there is none."""
        try:
            answer = await self._daemon.call(lambda client: client.inspect_container(container))
        except NotFound:
            return None
        return msgspec.convert(answer, type=Container)

    async def _find(self, replica_id: str) -> Container | None:
        """The replica's container, if there is one and it is ours."""
        container = await self._inspect(container_name(replica_id))
        return container if container is not None and container.belongs_to(self._appliance_id) else None

    async def _known(self, replica_id: str) -> Container:
        container = await self._find(replica_id)
        if container is None:
            raise ReplicaUnknown(f"There is no replica {replica_id}.")
        return container

    async def _observe(self, summary: ContainerSummary) -> ObservedReplica | None:
        """What was seen before is taken again while the state is the same: nothing else of a container changes."""
        seen = self._seen.get(summary.id)
        if seen is not None and seen.state is state_of(summary.state):
            return seen
        container = await self._inspect(summary.id)
        if container is None or container.replica_state is None or not container.belongs_to(self._appliance_id):
            return None
        try:
            exited = container.replica_state is ReplicaState.EXITED
            last_lines = await self._lines(summary.id, LAST_LINES) if exited else ()
        except NotFound:
            return None
        return container.observed(container.replica_state, tuple(last_lines))

    async def _lines(self, container_id: str, tail: int | None) -> Sequence[str]:
        return await self._daemon.call(lambda client: logs.read(client, container_id, tail))

    async def _kill(self, container_id: str, signal: str) -> None:
        """One that does not run any more (409) or is gone (404) is fine."""
        try:
            await self._daemon.call(lambda client: client.kill(container_id, signal))
        except APIError as error:
            if error.status_code not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                raise LauncherUnavailable(f"Docker cannot signal container {container_id[:12]}: {error}.") from error

    async def _ended_within(self, container_id: str, timeout_s: float) -> bool:
        """Asked again and again: waiting in the daemon would hold a thread for the whole grace time."""
        deadline = self._clock.monotonic() + timeout_s
        pause = _FIRST_POLL_S
        while True:
            container = await self._inspect(container_id)
            if container is None or container.replica_state is not ReplicaState.RUNNING:
                return True
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LAST_POLL_S)

    async def _keep_log(self, container: Container) -> None:
        path = container.labels.get(LOG_LABEL)
        if path is None or container.replica_state is not ReplicaState.EXITED:
            return
        try:
            await self._daemon.call(lambda client: logs.copy(client, container.id, Path(path)), timeout_s=_SLOW_S)
        except NotFound:
            return
        except OSError as error:
            # A full disk, say, which the container's removal may relieve: a log is not worth keeping both.
            _log.warning("replica.log_lost", container=container.id, path=path, error=str(error))

    async def _discard(self, container_id: str) -> None:
        """Gone already (404) or being removed by an earlier call (409) is fine."""
        try:
            await self._daemon.call(lambda client: client.remove_container(container_id, v=True), timeout_s=_SLOW_S)
        except APIError as error:
            if error.status_code not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                raise LauncherUnavailable(f"Docker cannot remove container {container_id[:12]}: {error}.") from error
