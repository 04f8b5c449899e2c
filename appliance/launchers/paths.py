"""The folder of a replica on the host, and the rules that hold for it under every launcher."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.launchers.contract import APPLIANCE_LABEL, REPLICA_ID, REPLICA_LABEL, SOCKET_NAME, ReplicaSpec
from appliance.launchers.errors import StartRefused

# `sun_path` of unix(7) holds 108 bytes with the closing zero.
SOCKET_PATH_BYTES = 107
_RUN_DIR_MODE = 0o2710


def host_socket(run_dir: Path) -> Path:
    """Where the gateway finds the engine."""
    return run_dir / SOCKET_NAME


def replica_dir(root: Path, replica_id: str) -> Path:
    if REPLICA_ID.fullmatch(replica_id) is None:
        raise ValueError(f"not a replica id: {replica_id!r}")
    return root / replica_id


def check_spec(spec: ReplicaSpec, *, appliance_id: str, root: Path) -> None:
    """What no launcher can start. Raises `StartRefused`, or `ValueError` for a spec that is a defect of ours."""
    if spec.run_dir != replica_dir(root, spec.replica_id):
        raise ValueError(f"run_dir {spec.run_dir} is not {root / spec.replica_id}")
    if spec.labels.get(APPLIANCE_LABEL) != appliance_id or spec.labels.get(REPLICA_LABEL) != spec.replica_id:
        raise ValueError(f"labels do not name appliance {appliance_id} and replica {spec.replica_id}")
    if not spec.argv or any("\0" in part for part in (*spec.argv, *spec.env, *spec.env.values())):
        raise StartRefused("The command is empty, or it or its environment contains a NUL character.")
    length = len(os.fsencode(host_socket(spec.run_dir)))
    if length > SOCKET_PATH_BYTES:
        raise StartRefused(
            f"The path of the engine's socket, {host_socket(spec.run_dir)}, has {length} bytes and the kernel allows "
            f"{SOCKET_PATH_BYTES}; choose a shorter APPLIANCE_HOME."
        )
    if spec.model_dir is not None and not spec.model_dir.is_dir():
        raise StartRefused(f"The model's folder {spec.model_dir} does not exist.")


def make_run_dir(path: Path, *, uid: int = -1, gid: int = -1) -> None:
    """The folder for the socket: the owner may do everything, the group may only reach what it knows by name.

    The set-group-id bit gives the engine's socket the folder's group, which is the gateway's.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _own(path, uid=uid, gid=gid)
    except StartRefused:
        path.rmdir()
        raise
    path.chmod(_RUN_DIR_MODE)


def make_cache_dir(path: Path, *, uid: int = -1, gid: int = -1) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(path, uid=uid, gid=gid)


def _own(path: Path, *, uid: int, gid: int) -> None:
    status = path.stat()
    if uid not in {-1, status.st_uid} or gid not in {-1, status.st_gid}:
        try:
            os.chown(path, uid, gid)
        except PermissionError:
            raise StartRefused(
                f"{path} cannot be given to user {uid}, group {gid}: the control plane runs as user {os.getuid()}. "
                "Run it as root or set the launcher's user to its own."
            ) from None
