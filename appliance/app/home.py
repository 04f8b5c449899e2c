"""`APPLIANCE_HOME`: its folders, the lock that keeps a second control plane out, ids and keys that live in it."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from appliance.kernel.errors import Misconfigured
from appliance.kernel.files import write_atomic, write_secret
from appliance.kernel.ids import new_id

_FOLDERS = ("db", "run", "run/e", "logs", "logs/replicas", "logs/gateway", "models", "runtimes", "cache", "gateway")
_PRIVATE = ("secrets", "db")


class Home:
    """The folder, made and locked; `close` lets the next control plane in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            for name in (*_FOLDERS, *_PRIVATE):
                (path / name).mkdir(parents=True, exist_ok=True)
            for name in _PRIVATE:
                (path / name).chmod(0o700)
            self._lock = (path / "run" / "control.lock").open("w")
        except OSError as error:
            raise Misconfigured(f"APPLIANCE_HOME {path} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured(f"an appliance is running in {path} already (pid {self._pid()})") from error
        write_atomic(self.pid_file, f"{os.getpid()}\n".encode())

    @property
    def pid_file(self) -> Path:
        return self.path / "run" / "control.pid"

    def appliance_id(self) -> str:
        """What labels of replicas begin with; made once."""
        return self._once("appliance.id", lambda: new_id("apl").encode()).decode()

    def master_key(self) -> bytes:
        """256 bits from which keys for one purpose each are derived; made once."""
        return self._once("secrets/master.key", lambda: secrets.token_bytes(32))

    def node_name(self) -> str:
        """What this machine is called in the database, for good: a host name may change, its listeners may not."""
        return self._once("node.name", lambda: socket.gethostname().encode()).decode()

    def close(self) -> None:
        self.pid_file.unlink(missing_ok=True)
        self._lock.close()

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.path / name
        if not path.exists():
            write_secret(path, make())
        return path.read_bytes()

    def _pid(self) -> str:
        return self.pid_file.read_text().strip() if self.pid_file.exists() else "unknown"
