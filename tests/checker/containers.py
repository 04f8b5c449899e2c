"""Containers as the Docker daemon tells of them."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors


@dataclass(frozen=True, slots=True)
class Container:
    """`inspected` is the whole answer of `docker inspect`."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    inspected: Mapping[str, Any]

    @property
    def environ(self) -> Mapping[str, str]:
        entries = self.inspected["Config"].get("Env") or []
        return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def read_containers(host: str) -> Sequence[Container]:
    """Every container, ended ones included; those that go while it reads are left out."""
    with closing(docker.APIClient(base_url=host, version="auto", timeout=30)) as client:
        found = (_inspect(client, entry["Id"]) for entry in client.containers(all=True, trunc=False))
        return [container for container in found if container is not None]


def _inspect(client: docker.APIClient, identifier: str) -> Container | None:
    try:
        answer = client.inspect_container(identifier)
    except docker.errors.NotFound:
        return None
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        labels=answer["Config"].get("Labels") or {},
        running=answer["State"]["Running"],
        inspected=answer,
    )
