"""A Docker daemon of a test's own, which may be killed, stopped and started again."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from docker import APIClient

from tests.support.processes import eventually


class Daemon:
    def __init__(self, home: Path, *options: str) -> None:
        """`options` are further ones of dockerd's command line."""
        self._home, self._options = home, options
        self._address = home / "d.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, *options: str) -> Iterator[Self]:
        """Short paths: the daemon's own sockets lie below its folder."""
        home = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
        daemon = cls(home, *options)
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()
            shutil.rmtree(home)

    @property
    def host(self) -> str:
        return f"unix://{self._address}"

    def client(self) -> APIClient:
        return APIClient(self.host, version="auto", timeout=30)

    def start(self) -> None:
        arguments = [
            *("dockerd", "--host", self.host, "--data-root", str(self._home / "data")),
            *("--exec-root", str(self._home / "exec"), "--pidfile", str(self._home / "pid")),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", *self._options),
        ]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)
        eventually(self._listens, 60, ignoring=(OSError,), message=f"a daemon at {self._address}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """With its containerd, which the kernel ends a moment later: a daemon that starts before takes it for alive,
        and waits for it in vain.
        """
        containerd = int((self._home / "exec/containerd/containerd.pid").read_text())
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(30)
        eventually(lambda: not Path(f"/proc/{containerd}").exists())
        self._address.unlink()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        # A daemon that was killed once leaves a mount behind for each time.
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((point for point in mounted if point.startswith(f"{self._home}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=True)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._address))
        return True


def tree_of(client: APIClient, image: str) -> bytes:
    """The image's files as a tar archive, from a container that is never started."""
    container = client.create_container(image, ["true"])
    try:
        return b"".join(client.export(container))
    finally:
        client.remove_container(container)
