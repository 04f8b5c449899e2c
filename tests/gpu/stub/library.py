"""Builds the stub libraries once for each version of their source, and puts them into a simulated host's folder."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("fleet.c")
LIBRARIES: Final = {"libnvidia-ml.so.1": (), "libixml.so": ("-DIXML",)}


class NoCompiler(RuntimeError):
    """There is no C compiler on this machine."""


def build() -> Path:
    """The folder with both libraries, made where it is missing; several processes may do so at the same time."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"simulated-fleet-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, flags in LIBRARIES.items():
        if not (folder / name).exists():
            _compile(folder / name, flags)
    return folder


def install(folder: Path) -> None:
    """Links in the folder's `lib`: a library looks for its fleet from where it was loaded, not from where it lies."""
    built = build()
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        link = folder / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(built / name)


def _compile(target: Path, flags: tuple[str, ...]) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("there is no C compiler: install gcc to run the tests of simulated devices")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run([*command, "-o", str(partial), str(SOURCE), "-ldl"], check=True)
    partial.replace(target)
