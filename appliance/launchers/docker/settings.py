"""What an administrator sets for the Docker launcher."""

from __future__ import annotations

import os

from msgspec import Struct

_UNPRIVILEGED = 10001


class DockerSettings(Struct, frozen=True, kw_only=True):
    """`uid` and `gid` run the engines and own their sockets; None is the control plane's own, or 10001 where that is
    root. The gateway's workers have the same uid, or root's rights: a container's umask cannot be set and may deny
    the group. Sizes are in bytes; a container's log has two files of `log_bytes`; `shm_bytes` and `/tmp` count as
    the container's memory. `allow_old_toolkit` runs replicas on NVIDIA devices with a container toolkit that images can
    escape from, or whose version is not found.
    """

    host: str = "unix:///var/run/docker.sock"
    uid: int | None = None
    gid: int | None = None
    allow_old_toolkit: bool = False
    log_bytes: int = 16 * 1024 * 1024
    tmp_bytes: int = 1024 * 1024 * 1024
    shm_bytes: int = 1024 * 1024 * 1024

    def owner(self) -> tuple[int, int]:
        """Uid and gid of the engines. Never root's, unless an administrator says so."""
        uid = self.uid if self.uid is not None else os.getuid() or _UNPRIVILEGED
        gid = self.gid if self.gid is not None else os.getgid() or _UNPRIVILEGED
        return uid, gid
