"""The launchers under test, each with a clean workbench of its own."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.launchers.workbench import Workbench
from tests.support.docker import BUSYBOX_IMAGE, require_image


def _home() -> Path:
    """Short, since socket paths are: pytest's own temporary folders are not."""
    home = Path(tempfile.mkdtemp(prefix="launch-", dir="/tmp"))
    # Containers run as another user and have to reach the model.
    home.chmod(0o755)
    (home / "model").mkdir(mode=0o755)
    (home / "model" / "config.json").write_text("{}")
    return home


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Workbench]:
    """Each launcher in turn: what uses this fixture is the contract."""
    host = None
    if request.param == "docker":
        host = request.getfixturevalue("docker_host")
        require_image(request.getfixturevalue("docker_images"), BUSYBOX_IMAGE)
    bench = Workbench(request.param, _home(), host)
    yield bench
    await bench.clear()


@pytest.fixture
async def process_bench() -> AsyncIterator[Workbench]:
    bench = Workbench("process", _home(), None)
    yield bench
    await bench.clear()


@pytest.fixture
async def docker_bench(docker_host: str, docker_images: frozenset[str]) -> AsyncIterator[Workbench]:
    require_image(docker_images, BUSYBOX_IMAGE)
    bench = Workbench("docker", _home(), docker_host)
    yield bench
    await bench.clear()
