"""Builds a runtime's virtual environment with `venv` and pip, in place: an environment cannot be moved.

One builder at a time, by a lock that dies with its holder. What is cut, cancelled or fails leaves no stamp and is
removed by the next attempt.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from appliance.kernel.children import ChildFailed, run_child
from appliance.kernel.files import write_atomic
from appliance.runtimes.environments import STAMP, folder_of, is_ready, needs_environment, python
from appliance.runtimes.errors import EnvironmentFailed, RuntimeNotStartable
from appliance.runtimes.spec import RuntimeSpec

Progress = Callable[[str], None]
"""Takes one line for a person."""

_LOCK_POLL_S: Final = 0.2
_PIP_OPTIONS: Final = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
_HIDDEN: Final = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV")
_TOLD: Final = (
    (re.compile(r"^Collecting (\S+)"), "finding {0}"),
    (re.compile(r"^\s*Downloading (\S+?)(?:-\d[^ ]*)? \(([^)]+)\)"), "downloading {0} ({1})"),
    (re.compile(r"^\s*Building wheel for (\S+)"), "building {0}"),
    (re.compile(r"^Installing collected packages: (.+)"), "installing {0}"),
)


async def ensure(spec: RuntimeSpec, environments: Path, progress: Progress = lambda _: None) -> Path:
    """The runtime's interpreter, its environment built if it is not there; a ready one costs milliseconds.

    Raises `EnvironmentFailed` with the installer's last lines, `RuntimeNotStartable` for a runtime without a process
    form. A cancelled build ends its installer.
    """
    if spec.process is None:
        raise RuntimeNotStartable(f"the {spec.name} runtime has no form for the process launcher")
    if not is_ready(spec, environments):
        folder = folder_of(spec, environments)
        await asyncio.to_thread(folder.parent.mkdir, parents=True, exist_ok=True)
        async with _locked(folder.parent / ".lock", progress, spec.name):
            if not is_ready(spec, environments):
                await _build(spec, folder, progress)
    return python(spec, environments)


async def _build(spec: RuntimeSpec, folder: Path, progress: Progress) -> None:
    assert needs_environment(spec)  # noqa: S101 - `is_ready` holds for the others
    assert spec.process is not None  # noqa: S101
    progress(f"{spec.name}: making a virtual environment")
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    await _run(spec, [sys.executable, "-m", "venv", str(folder)], progress)
    for words in spec.process.installs:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *_PIP_OPTIONS, *words]
        await _run(spec, pip, progress)
    await asyncio.to_thread(write_atomic, folder / STAMP, b"")
    progress(f"{spec.name}: the environment is ready")


async def _run(spec: RuntimeSpec, command: Sequence[str], progress: Progress) -> None:
    def tell(line: str) -> None:
        if told := _told(line):
            progress(f"{spec.name}: {told}")

    try:
        await run_child(command, cwd=spec.folder, environ=_environ(), on_line=tell)
    except ChildFailed as failure:
        raise EnvironmentFailed(
            f"the environment of the {spec.name} runtime could not be built: {failure.detail}"
        ) from failure


def _environ() -> dict[str, str]:
    """Ours without what would lead pip astray, and without settings: a package that builds runs code of others."""
    return {
        name: value for name, value in os.environ.items() if name not in _HIDDEN and not name.startswith("APPLIANCE_")
    }


def _told(line: str) -> str | None:
    """What a person is told of one of pip's lines: package names, not addresses."""
    for pattern, text in _TOLD:
        if found := pattern.match(line):
            return text.format(*found.groups())
    return None


@asynccontextmanager
async def _locked(path: Path, progress: Progress, name: str) -> AsyncIterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(descriptor):
            progress(f"{name}: another process builds the environment; waiting for it")
            while not _try_lock(descriptor):  # noqa: ASYNC110 - another process holds it, no event can tell
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
