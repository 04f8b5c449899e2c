"""The light engine as an image, and what is left of an appliance in a Docker daemon."""

from __future__ import annotations

import io
import tarfile
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from docker import APIClient
from docker.errors import APIError, BuildError, NotFound

from tests.support.docker import BASE_IMAGE

LIGHT_IMAGE: Final = "appliance/light:1"
_ENGINE: Final = Path(__file__).parents[1] / "engines" / "light" / "light_engine.py"
_DOCKERFILE: Final = f"FROM {BASE_IMAGE}\nCOPY light_engine.py /opt/runtime/light_engine.py\n"


def build_light_image(host: str) -> str:
    """Build the image of `tests/engines/light` upon the local base image; its tag. Again it costs next to nothing."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        _add(archive, "Dockerfile", _DOCKERFILE.encode())
        _add(archive, "light_engine.py", _ENGINE.read_bytes())
    context.seek(0)
    with closing(APIClient(host, version="auto", timeout=120)) as client:
        answers = list(client.build(fileobj=context, custom_context=True, tag=LIGHT_IMAGE, rm=True, decode=True))
    for answer in answers:
        if "error" in answer:
            raise BuildError(answer["error"], iter(answers))
    return LIGHT_IMAGE


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Always the same archive for the same content, so that the daemon takes the layer from its cache."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))


def containers_of(host: str, appliance_id: str) -> list[str]:
    """Ids of the containers, running or not, that carry the appliance's label."""
    with closing(APIClient(host, version="auto", timeout=30)) as client:
        found = client.containers(all=True, filters={"label": [f"appliance={appliance_id}"]})
    return [container["Id"] for container in found]


def started_at(host: str, replica_id: str) -> float:
    """When the replica's container was started, Unix seconds."""
    with closing(APIClient(host, version="auto", timeout=30)) as client:
        (found,) = client.containers(filters={"label": [f"replica={replica_id}"]})
        state = client.inspect_container(found["Id"])["State"]
    return datetime.fromisoformat(state["StartedAt"]).timestamp()


def remove_containers(host: str, appliance_id: str) -> None:
    found = containers_of(host, appliance_id)
    with closing(APIClient(host, version="auto", timeout=30)) as client:
        for container in found:
            with suppress(NotFound, APIError):
                client.remove_container(container, force=True)
