"""A whole appliance for tests: the real command in a process of its own, with a home and ports of its own.

`running` starts it, `kill` is SIGKILL, `start` again continues with the same home. Engines are the light ones of
`tests/engines` unless a test names another runtime.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.checker.database import SQLITE, Row, read_tables
from tests.checker.run import check
from tests.checker.violations import Violation
from tests.support.http import PLAIN
from tests.support.light import containers_of, remove_containers
from tests.support.models import write_tiny_model
from tests.support.ports import free_ports
from tests.support.processes import Process, ProcessTable
from tests.support.waiting import eventually

ENGINES: Final = Path(__file__).parents[1] / "engines"
START_S: Final = 30.0
STOP_S: Final = 60.0


class Appliance:
    """`url` and `tenant_url` are the two ports; `admin` is a client with the operator's key."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        admin, tenant, metrics, *gateway = free_ports(19)
        self.home, self.first_gateway_port = home, gateway[0]
        self.url, self.tenant_url = f"https://localhost:{admin}", f"https://localhost:{tenant}"
        self.metrics_url = f"http://127.0.0.1:{metrics}"
        self.models = home.parent / "source"
        self._log = home.parent / "control.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.resources = ExitStack()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "APPLIANCE_HOME": str(home),
            "APPLIANCE_ADMIN_PORT": str(admin),
            "APPLIANCE_TENANT_PORT": str(tenant),
            "APPLIANCE_METRICS_PORT": str(metrics),
            "APPLIANCE_GATEWAY__FIRST_PORT": str(gateway[0]),
            "APPLIANCE_GATEWAY__HOST": "127.0.0.1",
            "APPLIANCE_GATEWAY__DRAIN_S": "5",
            "APPLIANCE_ENGINES__STOP_GRACE_S": "5",
            "APPLIANCE_ENGINES__RUNTIME_FOLDERS": str(ENGINES),
            "APPLIANCE_MODELS__IMPORT_ROOTS": str(self.models),
            **environ,
        }

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, **environ: str) -> None:
        """Start the control plane and wait until it is ready; raises with its output if it ends before."""
        self.spawn(**environ)
        if not self.until_ready_or_dead():
            raise AssertionError(f"the control plane ended:\n{self.output()}")

    def until_ready_or_dead(self) -> bool:
        """Whether it is ready."""
        assert self._process is not None
        process = self._process
        eventually(lambda: process.poll() is not None or self._is_ready(), START_S, message=f"ready; see {self._log}")
        return process.poll() is None

    def spawn(self, **environ: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "appliance.cli.main", "run"],
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _is_ready(self) -> bool:
        try:
            return PLAIN.get(f"{self.metrics_url}/readyz").status_code == httpx.codes.OK and self._has_key()
        except httpx.TransportError:
            return False

    def _has_key(self) -> bool:
        return (self.home / "operator.key").exists()

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL the control plane alone; engines and gateway go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill_worker(self, number: int) -> None:
        """SIGKILL one of the gateway's workers; the supervisor starts another."""
        os.kill(self.pid_of(f"worker-{number}"), signal.SIGKILL)

    def pid_of(self, name: str) -> int:
        """Of `run/<name>.pid`."""
        return int((self.home / "run" / f"{name}.pid").read_text())

    def wait_for_death(self, timeout: float) -> bool:
        """Whether the control plane ended by itself within `timeout` seconds."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM: everything ends in order; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_S)

    @property
    def database_url(self) -> str | None:
        """None: SQLite below the home."""
        return self.environ.get("APPLIANCE_DATABASE_URL")

    @property
    def docker_host(self) -> str | None:
        """None with the process launcher."""
        return self.environ.get("APPLIANCE_DOCKER__HOST")

    def violations(self) -> list[Violation]:
        """What the independent checker finds wrong."""
        return check(self.home, database_url=self.database_url, docker_host=self.docker_host)

    def rows(self, table: str) -> Sequence[Row]:
        """A table of the database as it is now."""
        return read_tables(self.database_url or f"{SQLITE}{self.home}/db/appliance.sqlite")[table]

    def engines(self) -> int:
        """How many engines run."""
        if self.docker_host is not None:
            return len(containers_of(self.docker_host, self.id))
        return sum("light_engine" in line and " -m appliance" not in line for line in self.processes())

    @property
    def id(self) -> str:
        return (self.home / "appliance.id").read_text()

    def processes(self) -> list[str]:
        """Command lines of whatever still runs on behalf of this appliance."""
        return [process.command_line for process in self._own()]

    def _own(self) -> list[Process]:
        """Found by the home in their arguments or environment, or by an engine's session: some engines' workers
        overwrite both.
        """
        home, table, sessions = str(self.home), ProcessTable.snapshot(), self._sessions()
        led_by_others = {
            session
            for session, started in sessions.items()
            if (leader := table.get(session)) is not None and leader.started != started
        }
        return [
            process
            for process in table
            if not process.is_zombie
            and process.pid != os.getpid()
            and (
                home in process.command_line
                or any(home in value for value in process.environ.values())
                or (process.session not in led_by_others and process.started >= sessions.get(process.session, math.inf))
            )
        ]

    def _sessions(self) -> dict[int, int]:
        """The sessions of the engines that the process launcher has started here, each with its leader's start."""
        states = [json.loads(path.read_text()) for path in self.home.glob("run/e/*/state.json")]
        return {state["engine_pid"]: state["engine_ticks"] for state in states if state.get("engine_pid")}

    def client(self, key: str | None = None, *, url: str | None = None, tenant: str | None = None) -> httpx.Client:
        """A client of the management API; by default the operator's, on the admin port."""
        secret = key or (self.home / "operator.key").read_text().strip()
        headers = {"Authorization": f"Bearer {secret}"} | ({"Appliance-Tenant": tenant} if tenant else {})
        trust = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
        client = httpx.Client(base_url=f"{url or self.url}/api/v1/", headers=headers, verify=trust, timeout=60)
        self.resources.callback(client.close)
        return client

    def cli(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "appliance.cli.main", *arguments],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


class Tenant:
    """A tenant of the appliance with a model; `client` acts for it with the operator's key."""

    def __init__(self, appliance: Appliance, name: str) -> None:
        self.appliance, self.name = appliance, name
        self.client = appliance.client(tenant=name)

    @classmethod
    def named(cls, appliance: Appliance, name: str) -> Tenant:
        """A new tenant that has nothing yet."""
        with appliance.client() as operator:
            done(operator.post("tenants", json={"name": name}))
        return cls(appliance, name)

    @classmethod
    def create(cls, appliance: Appliance, name: str = "acme", *, seed: int = 0) -> Tenant:
        tenant = cls.named(appliance, name)
        tenant.import_model("tiny", write_tiny_model(appliance.models / name, seed=seed))
        return tenant

    def import_model(self, name: str, folder: Path) -> None:
        done(self.client.post("models", json={"name": name}))
        done(self.client.post(f"models/{name}/imports", json={"directory": str(folder), "version": "main"}))
        eventually(lambda: self._version_state(name) == "normal", 60, message=f"model {name} is imported")

    def _version_state(self, model: str) -> str:
        state: str = done(self.client.get(f"models/{model}/versions/main"))["state"]
        assert state != "failed"
        return state

    def key(self, name: str = "key", **members: Any) -> str:
        secret: str = done(self.client.post("keys", json={"name": name, **members}))["secret"]
        return secret

    def known_key(self, url: str, name: str = "key", **members: Any) -> str:
        """A key that every gateway worker at `url` knows; it asks often enough to have met all of them."""
        secret = self.key(name, **members)

        def is_known() -> bool:
            answer = PLAIN.get(f"{url}/models", headers={"Authorization": f"Bearer {secret}"})
            return answer.status_code == httpx.codes.OK

        eventually(lambda: all(is_known() for _ in range(20)), message=f"key {name} is known")
        return secret

    def publish(self, name: str, *, model: str = "tiny", runtime: str = "light", **members: Any) -> dict[str, Any]:
        body = {"name": name, "model": model, "runtime": runtime, **members}
        created: dict[str, Any] = done(self.client.post("services", json=body))
        return created

    def service(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = done(self.client.get(f"services/{name}"))
        return shown

    def until(self, name: str, state: str, timeout: float = 30) -> dict[str, Any]:
        """Wait until the service is in `state`."""

        def look() -> dict[str, Any]:
            shown = self.service(name)
            return shown if shown["state"] == state else {}

        return eventually(look, timeout, message=f"service {name} is {state}")

    def until_gone(self, name: str, timeout: float = 30) -> None:
        eventually(lambda: self.client.get(f"services/{name}").status_code == httpx.codes.NOT_FOUND, timeout)


def done(answer: httpx.Response) -> Any:
    """The decoded body of a successful answer; an error shows its problem."""
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


@contextmanager
def prepared(**environ: str) -> Iterator[Appliance]:
    """An appliance that is not started; at the end everything of it is gone, whatever the test did."""
    folder = Path(tempfile.mkdtemp(prefix="apl-", dir="/tmp"))  # short: sockets lie below
    appliance = Appliance(folder / "home", environ)
    try:
        yield appliance
    finally:
        _end(appliance)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(**environ: str) -> Iterator[Appliance]:
    with prepared(**environ) as appliance:
        appliance.start()
        yield appliance


def _end(appliance: Appliance) -> None:
    appliance.resources.close()
    if appliance._process is not None and appliance._process.poll() is None:
        appliance.kill()
    for process in appliance._own():
        _kill(process.pid)
    if appliance.docker_host is not None and (appliance.home / "appliance.id").exists():
        remove_containers(appliance.docker_host, appliance.id)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
