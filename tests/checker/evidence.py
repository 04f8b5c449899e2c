"""One look at everything: what the checks are given. Gathering is done here and nowhere else."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.checker.containers import Container, read_containers
from tests.checker.database import SQLITE, Row, Tables, read_tables
from tests.support.processes import Listener, Process, ProcessTable, listeners

LIVE: Final = frozenset({"placed", "starting", "joining", "ready", "draining", "stopping"})
"""States of a replica that holds devices and may have a process."""
ENDED: Final = frozenset({"stopped", "failed"})

REPLICA_VARIABLE: Final = "APPLIANCE_REPLICA"
"""Every process that the process launcher starts inherits it."""
APPLIANCE_LABEL: Final = "appliance"
REPLICA_LABEL: Final = "replica"


@dataclass(frozen=True)
class Evidence:
    """`appliance` is the id that our containers carry. `containers` is None where no daemon was to be asked.
    `foreign` are ids of containers that are not ours and that were there before."""

    home: Path
    appliance: str
    tables: Tables
    processes: ProcessTable
    sockets: Sequence[Listener] = ()
    containers: Sequence[Container] | None = None
    foreign: frozenset[str] = frozenset()
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def rows(self, table: str) -> Sequence[Row]:
        """An absent table is a checker that does not know the schema any more: `KeyError`."""
        return self.tables[table]

    @property
    def replicas(self) -> Mapping[str, Row]:
        return {row["id"]: row for row in self.rows("replicas")}

    @property
    def our_containers(self) -> Mapping[str, Container]:
        """Running or not, by container id."""
        everything = self.containers or ()
        ours = (container for container in everything if container.labels.get(APPLIANCE_LABEL) == self.appliance)
        return {container.id: container for container in ours}

    @property
    def replica_processes(self) -> Mapping[int, tuple[str, Process]]:
        """Shims, and what the process launcher's engines are made of: pid to replica and process."""
        folder = f"{self.home}/run/e/"
        found: dict[int, tuple[str, Process]] = {}
        for process in self.processes:
            named = [argument for argument in process.arguments if argument.startswith(folder)]
            replica = process.environ.get(REPLICA_VARIABLE)
            if replica is None and named and any("shim" in argument for argument in process.arguments):
                replica = named[0].removeprefix(folder).partition("/")[0]
            if replica is not None and self.is_ours(process) and not process.is_zombie:
                found[process.pid] = (replica, process)
        return found

    def is_ours(self, process: Process) -> bool:
        """Whether a process belongs to the appliance with this home, and not to another one on the machine."""
        texts = (*process.arguments, *process.environ.values())
        return any(text == str(self.home) or f"{self.home}/" in text for text in texts)

    def pid(self, name: str) -> int | None:
        """The process of `run/<name>.pid`, if it runs."""
        try:
            pid = int((self.home / "run" / f"{name}.pid").read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return None
        process = self.processes.get(pid)
        return pid if process is not None and not process.is_zombie else None

    def shard(self, name: str) -> Any:
        """A shard of the published snapshot; None where there is none."""
        folder = self.home / "gateway" / "snapshot"
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            return json.loads((folder / manifest["shards"][name]).read_text())
        except (FileNotFoundError, KeyError):
            return None


def gather(
    home: Path,
    *,
    database_url: str | None = None,
    docker_host: str | None = None,
    secrets: Mapping[str, bytes] | None = None,
    foreign: frozenset[str] = frozenset(),
) -> Evidence:
    """One look. The database is read first: what it does not know of yet cannot be held against a process."""
    tables = read_tables(database_url or f"{SQLITE}{home}/db/appliance.sqlite")
    return Evidence(
        home=home,
        appliance=(home / "appliance.id").read_text().strip(),
        tables=tables,
        containers=None if docker_host is None else read_containers(docker_host),
        processes=ProcessTable.snapshot(),
        sockets=listeners(),
        secrets={**secrets_of(home), **(secrets or {})},
        foreign=foreign,
    )


_PEM_LINE: Final = 64


def secrets_of(home: Path) -> Mapping[str, bytes]:
    """What the appliance itself keeps secret, by file: keys that a person is given, and its own private keys."""
    found: dict[str, bytes] = {}
    for path in sorted([*home.glob("*.key"), *home.glob("secrets/*.key")]):
        name, content = str(path.relative_to(home)), path.read_bytes()
        if content.startswith(b"-----BEGIN"):
            # The last full line: the first ones only say what kind of key it is. One line also shows where a copy
            # has its line ends escaped.
            found[name] = [line for line in content.split() if len(line) == _PEM_LINE][-1]
        elif content.strip().isascii():
            found[name] = content.strip()
        else:
            found[name] = content
            found[f"{name} in hexadecimal"] = content.hex().encode()
            found[f"{name} in base64"] = base64.b64encode(content)
    return found
