"""What an administrator sets for the Docker launcher."""

from __future__ import annotations

from msgspec import Struct


class DockerSettings(Struct, frozen=True, kw_only=True):
    """`uid` and `gid` run the engines and own their sockets: the gateway's workers have the same uid, since a
    container's umask, which cannot be set, may deny the group. Sizes are in bytes; a container's log has two files
    of `log_bytes`; `shm_bytes` and `/tmp` count as the container's memory.
    """

    host: str = "unix:///var/run/docker.sock"
    uid: int = 10001
    gid: int = 10001
    log_bytes: int = 16 * 1024 * 1024
    tmp_bytes: int = 1024 * 1024 * 1024
    shm_bytes: int = 1024 * 1024 * 1024
