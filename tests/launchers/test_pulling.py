"""An image that is missing is pulled where its name says from where, with its bytes told; or the reason is clear."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.progress import Progress
from appliance.launchers.docker.launcher import DockerLauncher
from appliance.launchers.docker.pulling import may_pull
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.errors import ImageMissing
from tests.launchers.fake_daemon import FakeDaemon, fake_daemon

DIGEST = f"sha256:{'ab' * 32}"
IMAGE = "registry.example:5000/team/engine:1"


def _event(status: str, layer: str | None = None, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"status": status, "progressDetail": detail} | ({"id": layer} if layer else {})


class Recorded(Progress):
    """Keeps every report."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[tuple[int, int]] = []

    def report(self, done: int, total: int) -> None:
        super().report(done, total)
        self.reports.append((done, total))


@asynccontextmanager
async def _launcher(daemon: FakeDaemon, root: Path) -> AsyncIterator[DockerLauncher]:
    launcher = DockerLauncher("apl_test", root=root, settings=DockerSettings(host=daemon.host))
    yield launcher
    await launcher.close()


async def test_the_bytes_of_all_layers_are_told(tmp_path: Path) -> None:
    events = [
        _event("Pulling from team/engine", "1"),
        _event("Pulling fs layer", "aa"),
        _event("Downloading", "aa", 10, 100),
        _event("Downloading", "bb", 300, 300),
        _event("Downloading", "aa", 60, 100),
        _event("Download complete", "aa"),
        _event("Extracting", "aa", 5, 100),
        _event("Pull complete", "aa"),
        _event("Already exists", "cc"),
        _event("Status: Downloaded newer image"),
    ]
    progress = Recorded()
    with fake_daemon(*events) as daemon:
        async with _launcher(daemon, tmp_path) as launcher:
            assert not await launcher.images.exists(IMAGE)
            await launcher.images.pull(IMAGE, progress)
        assert daemon.pulled == [("registry.example:5000/team/engine", "1")]
    assert list(dict.fromkeys(progress.reports)) == [(0, 0), (10, 100), (310, 400), (360, 400), (400, 400)]
    assert progress.beats == len(events)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, "dial tcp: lookup registry.example on 127.0.0.53:53: no such host"),
        (404, "manifest for registry.example:5000/team/engine:1 not found: manifest unknown"),
        (500, "Get https://registry.example:5000/v2/: net/http: request canceled while waiting for connection"),
    ],
)
async def test_what_the_registry_says_is_the_reason(tmp_path: Path, status: int, said: str) -> None:
    with fake_daemon({"error": said, "errorDetail": {"message": said}}, status=status) as daemon:
        async with _launcher(daemon, tmp_path) as launcher:
            with pytest.raises(ImageMissing) as failed:
                await launcher.images.pull(IMAGE, Progress())
    assert f"{IMAGE} is not on this machine and cannot be pulled: " in failed.value.detail
    assert said in failed.value.detail
    assert "docker load" in failed.value.detail


async def test_a_name_that_says_not_from_where_is_not_asked_for(tmp_path: Path) -> None:
    """A public registry may have a stranger's image of that name."""
    with fake_daemon(_event("Status: Downloaded newer image")) as daemon:
        async with _launcher(daemon, tmp_path) as launcher:
            with pytest.raises(ImageMissing, match=r"appliance/vllm:1 is not on this machine, .*images/build.sh"):
                await launcher.images.pull("appliance/vllm:1", Progress())
        assert daemon.pulled == []


@pytest.mark.parametrize(
    ("image", "may"),
    [
        ("registry.example/engine:1", True),
        ("localhost/engine", True),
        ("localhost:5000/engine", True),
        (f"appliance/vllm@{DIGEST}", True),
        ("appliance/vllm:1", False),
        ("engine", False),
        ("engine.v2:1", False),
        (DIGEST, False),
    ],
)
def test_which_names_say_from_where(image: str, *, may: bool) -> None:
    assert may_pull(image) is may
