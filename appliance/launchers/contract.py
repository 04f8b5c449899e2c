"""What every launcher does, whatever a replica is made of; `tests/launchers` holds each one to it.

Invariants:

* a replica id stands for at most one engine, ever: `start` of one that runs, or ran, gives its handle;
* what is started is found again by `list` from any later process, by its labels alone;
* what does not carry this appliance's label is never touched;
* a launcher that cannot tell raises `LauncherUnavailable`: unreachable is not gone;
* `exited` means that no process of the replica is left, so that its devices are free.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from appliance.kernel.progress import Progress

APPLIANCE_LABEL = "appliance"
REPLICA_LABEL = "replica"
REPLICA_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
SOCKET_NAME = "engine.sock"
LAST_LINES = 20


class Limits(Struct, frozen=True, kw_only=True):
    """What one replica may use; `None` is no limit. `cpus` counts cores, the rest bytes and processes."""

    cpus: float | None = None
    memory_bytes: int | None = None
    pids: int = 512
    tmp_bytes: int | None = None


class DeviceGrant(Struct, frozen=True, kw_only=True):
    """One leased device. `index` is the driver's, `minor` the number of its device node."""

    vendor: str
    uuid: str
    index: int
    minor: int | None = None


class ReplicaSpec(Struct, frozen=True, kw_only=True):
    """Everything that one start needs; paths are the host's.

    `run_dir` is `<launcher's root>/<replica id>`; the launcher makes it, and the engine listens on `engine.sock`
    in it. `labels` hold at least `appliance` and `replica`. `image` is for containers only. No secret belongs in
    `argv`, `env` or `labels`.
    """

    replica_id: str
    labels: Mapping[str, str]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    run_dir: Path
    log_path: Path
    model_dir: Path | None = None
    cache_dir: Path | None = None
    image: str | None = None
    limits: Limits = Limits()
    devices: tuple[DeviceGrant, ...] = ()


class EngineLayout(Struct, frozen=True, kw_only=True):
    """Where the engine itself sees its socket, model and cache; what the caller renders into `argv` and `env`."""

    socket: Path
    model: Path | None
    cache: Path | None


class ReplicaState(StrEnum):
    """`created`: prepared by a start that was cut short; `start` finishes it, `remove` discards it."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class ExitInfo(Struct, frozen=True, kw_only=True):
    """How an engine ended: by `code` or by `signal`; neither is known after a reboot. `at` is Unix seconds."""

    code: int | None
    signal: int | None
    out_of_memory: bool
    at: float
    last_lines: tuple[str, ...]


class ObservedReplica(Struct, frozen=True, kw_only=True):
    """What exists, as found. `started_at` is Unix seconds, 0 while `created`; `exit` is set once `exited`."""

    replica_id: str
    labels: Mapping[str, str]
    state: ReplicaState
    handle: str
    started_at: float
    exit: ExitInfo | None = None


class Stats(Struct, frozen=True, kw_only=True):
    """Use so far (`cpu_seconds`) and now; all zero once the replica has exited."""

    cpu_seconds: float
    memory_bytes: int
    pids: int


class ImageInfo(Struct, frozen=True, kw_only=True):
    """An image on this machine: `image_id` (`sha256:...`) names its content, `digests` its names in registries."""

    image_id: str
    digests: tuple[str, ...]
    size_bytes: int


class ImageStore(Protocol):
    """The images of a launcher that has any."""

    async def exists(self, image: str) -> bool: ...

    async def inspect_image(self, image: str) -> ImageInfo:
        """Raises `ImageMissing`."""
        ...

    async def pull(self, image: str, progress: Progress) -> None:
        """Get the image from where its name says. Raises `ImageMissing` with the reason, `LauncherUnavailable`."""
        ...


class Launcher(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def isolates(self) -> bool:
        """Whether the kernel keeps a replica from the others, and from this machine: what untrusted tenants need."""
        ...

    @property
    def images(self) -> ImageStore | None:
        """None where engines need none."""
        ...

    def layout(self, *, run_dir: Path, model_dir: Path | None, cache_dir: Path | None) -> EngineLayout:
        """The engine's view of these folders; nothing has to exist yet."""
        ...

    async def start(self, spec: ReplicaSpec) -> str:
        """Start the engine and return its handle without waiting for it to be ready.

        Raises `StartRefused` or `ImageMissing`, after which nothing is left behind, or `LauncherUnavailable`,
        after which the same call may be repeated. A program that its image lacks may only show as exit code 127.
        """
        ...

    async def list(self) -> Sequence[ObservedReplica]:
        """Every replica that carries this appliance's label."""
        ...

    async def stop(self, replica_id: str, *, grace_s: float) -> None:
        """Ask the engine to end (SIGTERM), kill it after `grace_s`, return when no process of it is left.

        One that is absent or has exited is fine. Raises `StopIncomplete` for a process that cannot be killed.
        """
        ...

    async def remove(self, replica_id: str) -> None:
        """Forget a replica that does not run, and its `run_dir`; the log stays at `log_path`."""
        ...

    async def logs(self, replica_id: str, *, tail: int | None = None) -> Sequence[str]:
        """The last `tail` lines, or all that are kept."""
        ...

    def follow(self, replica_id: str) -> AsyncIterator[str]:
        """Lines from now on, until the replica has exited."""
        ...

    async def stats(self, replica_id: str) -> Stats: ...

    async def close(self) -> None:
        """Release the launcher's own threads and connections; replicas go on."""
        ...
