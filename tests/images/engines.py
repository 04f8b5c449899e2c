"""Real engines as the process launcher would start them, each on a unix socket of its own."""

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from appliance.runtimes import environments
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.placeholders import filled
from tests.support.environments import environments_folder
from tests.support.requirements import Requirement, unavailable
from tests.support.waiting import eventually

NAME = "demo"
START_TIMEOUT = 180.0


@dataclass(frozen=True, slots=True)
class EngineProcess:
    process: subprocess.Popen[bytes]
    socket: Path
    log: Path
    prefix: str

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
            yield client

    def health(self) -> int:
        """Status of GET /health; raises `OSError` while nothing listens."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: engine\r\n\r\n")
            with connection.makefile("rb") as answer:
                return int(answer.readline().split()[1])

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"the engine ended:\n{self.log.read_text()[-4000:]}"
            return self.health() == httpx.codes.OK

        eventually(ready, START_TIMEOUT, ignoring=(OSError,))

    async def counter(self, client: httpx.AsyncClient, name: str) -> float:
        """The sum of a metric's samples over all labels."""
        page = (await client.get("/metrics")).text
        samples = [line for line in page.splitlines() if line.startswith(f"{self.prefix}:{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in samples)


def demo_model() -> Path:
    """The trained demo model, or a skip."""
    folder = Path(os.environ.get("APPLIANCE_TEST_DEMO_MODEL", "var/demo-model")).absolute()
    if not (folder / "model.safetensors").is_file():
        unavailable(Requirement.ENGINES, f"there is no trained demo model in {folder}")
    return folder


@contextmanager
def started(
    runtime: str, folder: Path, *, model: Path | None = None, args: tuple[str, ...] = ()
) -> Iterator[EngineProcess]:
    """An engine whose process exists; it is killed at the end if it still runs."""
    spec = Catalog.load().get(runtime)
    if spec.process is None or not environments.is_ready(spec, environments_folder()):
        unavailable(
            Requirement.ENGINES, f"the environment of {runtime} is not built; see tests/support/environments.py"
        )
    address, log, cache = folder / "e.sock", folder / "log", folder / "cache"
    cache.mkdir(exist_ok=True)
    values = {
        "python": str(environments.python(spec, environments_folder())),
        "socket": str(address),
        "model": str(model or demo_model()),
        "served_name": NAME,
        "runtime_dir": str(spec.folder),
        "cache_dir": str(cache),
    }
    env = {name: filled(value, values) for name, value in spec.process.env.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*(filled(word, values) for word in spec.process.command), *args],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield EngineProcess(process, address, log, spec.metrics.prompt_tokens.partition(":")[0])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
