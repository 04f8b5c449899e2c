"""Virtual environments: really built, with a package that lies on disk, so that no index is asked."""

import asyncio
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from appliance.runtimes.building import ensure
from appliance.runtimes.catalog import RuntimeSpec
from appliance.runtimes.environments import STAMP, digest, folder_of, is_ready, python
from appliance.runtimes.errors import EnvironmentFailed
from tests.runtimes.specs import LIGHT, light
from tests.support.waiting import eventually

WITH_REQUIREMENTS = LIGHT.replace("[process.env]", 'requirements = "requirements.txt"\n[process.env]')


def wheel(folder: Path, version: str = "1.0") -> Path:
    """A wheel with one module, made by hand (PEP 427)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"lightweight-{version}-py3-none-any.whl"
    info = f"lightweight-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lightweight.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lightweight\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def printed(interpreter: Path, code: str) -> str:
    return subprocess.run([interpreter, "-c", code], capture_output=True, check=True, text=True).stdout.strip()


@pytest.fixture
def installing(tmp_path: Path) -> RuntimeSpec:
    folder = tmp_path / "light"
    path = wheel(tmp_path / "wheels")
    folder.mkdir()
    (folder / "requirements.txt").write_text(f"--no-index\n--find-links {path.parent}\nlightweight==1.0\n")
    return light(folder, WITH_REQUIREMENTS)


@pytest.mark.alone
async def test_an_environment_is_built_once(installing: RuntimeSpec, tmp_path: Path) -> None:
    environments, told = tmp_path / "environments", list[str]()
    assert not is_ready(installing, environments)
    built = await ensure(installing, environments, told.append)
    assert built == python(installing, environments)
    assert printed(built, "import lightweight; print(lightweight.VERSION)") == "1.0"
    assert is_ready(installing, environments)
    assert told[-1] == "light: the environment is ready"
    assert "light: installing lightweight" in told
    begun = time.monotonic()
    assert await ensure(installing, environments, told.clear) == built
    assert time.monotonic() - begun < 0.1
    assert told


async def test_packages_that_build_see_no_settings(
    installing: RuntimeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package's build runs whatever its author wrote, and the address of the database may hold a password."""
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", "postgresql://appliance:confidential@db/appliance")
    source = tmp_path / "wheels" / "source"
    source.mkdir()
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (source / "pyproject.toml").write_text(backend)
    (source / "backend.py").write_text("import os; raise SystemExit(f'code ran with {dict(os.environ)}')")
    (installing.folder / "requirements.txt").write_text(f"--no-index\n{source}\n")
    with pytest.raises(EnvironmentFailed) as failure:
        await ensure(installing, tmp_path / "environments")
    assert "code ran with" in failure.value.detail
    assert "confidential" not in failure.value.detail


async def test_other_requirements_are_another_environment(installing: RuntimeSpec, tmp_path: Path) -> None:
    before = folder_of(installing, tmp_path)
    (installing.folder / "requirements.txt").write_text("lightweight==2.0\n")
    assert folder_of(installing, tmp_path) != before


async def test_a_cut_build_is_never_taken_for_whole(installing: RuntimeSpec, tmp_path: Path) -> None:
    environments = tmp_path / "environments"
    folder = folder_of(installing, environments)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("rubbish")
    assert not is_ready(installing, environments)
    built = await ensure(installing, environments)
    assert printed(built, "print('ok')") == "ok"


async def test_what_fails_ends_with_pips_words(installing: RuntimeSpec, tmp_path: Path) -> None:
    (installing.folder / "requirements.txt").write_text("--no-index\nlightweight==9.9\n")
    with pytest.raises(EnvironmentFailed, match=r"No matching distribution found for lightweight==9\.9"):
        await ensure(installing, tmp_path / "environments")
    assert not is_ready(installing, tmp_path / "environments")


async def test_two_builders_build_once(installing: RuntimeSpec, tmp_path: Path) -> None:
    told: list[str] = []
    environments = tmp_path / "environments"
    first, second = await asyncio.gather(*(ensure(installing, environments, told.append) for _ in range(2)))
    assert first == second
    assert told.count("light: the environment is ready") == 1
    assert told.count("light: another process builds the environment; waiting for it") == 1


async def test_a_cancelled_build_ends_its_installer(installing: RuntimeSpec, tmp_path: Path) -> None:
    """The installer would read from a pipe that nobody writes to, and so for ever."""
    environments = tmp_path / "environments"
    (installing.folder / "requirements.txt").write_text("--no-index\n-r stuck.fifo\n")
    os.mkfifo(installing.folder / "stuck.fifo")
    started = asyncio.Event()

    def progress(_: str) -> None:
        started.set()

    task = asyncio.create_task(ensure(installing, environments, progress))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    eventually(lambda: not _children_of(installing.folder), 10, message="the installer is gone")
    assert not (folder_of(installing, environments) / STAMP).exists()


def _children_of(folder: Path) -> list[str]:
    """The processes that work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                found.append(entry.name)
        except OSError:
            continue
    return found


async def test_a_plain_command_needs_no_environment(runtime: RuntimeSpec, tmp_path: Path) -> None:
    assert is_ready(runtime, tmp_path)
    assert await ensure(runtime, tmp_path) == python(runtime, tmp_path)
    assert list(tmp_path.glob("light/*/")) == []
    assert digest(runtime) == digest(runtime)
