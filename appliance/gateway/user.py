"""The user of the gateway's processes, and which files below `APPLIANCE_HOME` are theirs.

A worker parses whatever the network sends. Run by root, the appliance starts the supervisor and the workers as a user
of their own (`gateway.user`), who reads the snapshot and a copy of the gateways' certificate with its key, writes
usage, captures, demand, status, counters and the access log, and may connect to the engines' sockets. The database,
the secrets, the models, the captures that were taken in and the engines' logs are behind folders that are root's.

In a folder that both write the sticky bit keeps the files of each from the other, and root follows no link there.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

import appliance
from appliance.kernel.errors import Misconfigured
from appliance.kernel.files import write_atomic
from appliance.kernel.tls import server_files

_SHARED_MODE, _READ_MODE, _OWN_MODE = 0o1770, 0o750, 0o700
_SHARED: Final = ("run", "gateway/spool", "logs/gateway")
_READ: Final = ("gateway", "gateway/snapshot", "gateway/tls")
_THEIRS: Final = ("gateway/status", "gateway/demand", "gateway/limits", "gateway/capture")
_PRIVATE: Final = ("models", "cache", "captures", "demo-model", "logs/replicas", "gateway/spool/quarantine")
_THEIR_FILES: Final = ("run/worker-*", "run/supervisor.*", "gateway/spool/worker-*", "logs/gateway/access.log*")
_PROBE: Final = "import os, sys, uvloop; os.scandir(sys.argv[1])"
_PROBE_S: Final = 30.0


class GatewayUser(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int


def resolve(name: str, *, engines_uid: int | None) -> GatewayUser | None:
    """The user that the setting names, None for the control plane's own. Raises `Misconfigured`.

    `engines_uid` is the user of engines in containers, whose sockets only that user may connect to: the umask of a
    container cannot be set.
    """
    if not name:
        return None
    user = _find(name)
    if user.uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise Misconfigured(
            f"gateway.user is {name!r}, but the appliance runs as user {os.geteuid()} and only root can start "
            "processes of another user; leave gateway.user empty, or run the appliance as root"
        )
    if engines_uid is not None and user.uid != engines_uid:
        raise Misconfigured(
            f"gateway.user is {name!r} (uid {user.uid}), and engines in containers run as docker.user {engines_uid}: "
            f"only the same user may connect to their sockets; set gateway.user to {engines_uid}"
        )
    return user


def _find(name: str) -> GatewayUser:
    """By name, or by number, which needs no entry in the user database."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if name.isdecimal():
            return GatewayUser(name, int(name), int(name))
        raise Misconfigured(f"gateway.user: this machine has no user {name!r}") from None
    return GatewayUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def tls_files(home: Path, user: GatewayUser | None) -> tuple[Path, Path]:
    """Certificate and key for the workers: with a user of their own a copy, which `prepare` makes."""
    if user is None:
        return server_files(home)
    return home / "gateway" / "tls" / "server.pem", home / "gateway" / "tls" / "server.key"


def prepare(home: Path, user: GatewayUser) -> None:
    """Give each file its owner and rights; idempotent, and right also for a home that had no such user before.

    Raises `Misconfigured` where the user cannot run the gateway, for instance because it may not enter a folder above.
    """
    for names, owner, mode in (
        (_READ, 0, _READ_MODE),
        (_SHARED, 0, _SHARED_MODE),
        (_THEIRS, user.uid, _OWN_MODE),
        (_PRIVATE, 0, _OWN_MODE),
    ):
        for name in names:
            _own_folder(home / name, owner, 0 if names is _PRIVATE else user.gid, mode)
    for path in _theirs(home):
        _give(path, user)
    for source, copy in zip(server_files(home), tls_files(home, user), strict=True):
        write_atomic(copy, source.read_bytes(), mode=0o640)
        os.chown(copy, 0, user.gid)
    _probe(home, user)


def _own_folder(path: Path, uid: int, gid: int, mode: int) -> None:
    """Through a descriptor that followed no link: one of these lies in a folder that both write."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _theirs(home: Path) -> Iterator[Path]:
    for name in _THEIRS:
        yield home / name
    for pattern in _THEIR_FILES:
        yield from home.glob(pattern)


def _give(path: Path, user: GatewayUser) -> None:
    os.chown(path, user.uid, user.gid, follow_symlinks=False)
    for _, folders, files, descriptor in os.fwalk(path) if path.is_dir() and not path.is_symlink() else ():
        for name in (*folders, *files):
            os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)


def _probe(home: Path, user: GatewayUser) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _PROBE, str(home / "gateway" / "snapshot")],
            cwd=Path(appliance.__file__).parents[1],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
        said = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except OSError as error:
        said = f"{sys.executable}: {error.strerror}"
    if said:
        raise Misconfigured(
            f"gateway.user {user.name!r} cannot run the gateway ({said}); it must be able to read this Python "
            f"environment and to enter every folder above {home}"
        )
