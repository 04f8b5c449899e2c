"""Compile the gateway's request path to machine code, in place: `make compile`; `--remove` takes it away again.

It needs a C compiler and Python's headers. What is up to date is left as it is.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from appliance.gateway.plane import compiled

ROOT = Path(__file__).parents[1]
GROUP = "appliance_plane"
"""The library that holds the code of all modules is `<GROUP>__mypyc`, beside the packages."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/compile.py", description=__doc__)
    parser.add_argument("--remove", action="store_true", help="remove what was compiled, so that the sources run")
    options = parser.parse_args()
    if options.remove:
        _remove()
        return 0
    if compiled.is_compiled():
        print("compiled already")
        return 0
    missing = _missing()
    if missing:
        print(f"cannot compile: {missing}", file=sys.stderr)
        return 1
    began = time.monotonic()
    _remove()
    _compile()
    print(f"compiled {len(compiled.MODULES)} modules in {time.monotonic() - began:.0f} s")
    return 0


def _missing() -> str | None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"{header} is missing (on Debian: apt-get install python3-dev)"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "there is no C compiler (on Debian: apt-get install gcc libc6-dev)"
    return None


def _compile() -> None:
    from mypyc.build import mypycify  # noqa: PLC0415 - a tool for development, large
    from setuptools import Distribution  # noqa: PLC0415 - as above

    sources = compiled.digests()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="appliance-compile-") as folder:
        paths = [str((compiled.FOLDER / f"{name}.py").relative_to(ROOT)) for name in compiled.MODULES]
        extensions = mypycify(
            ["--follow-imports=silent", *paths],
            opt_level="2",
            debug_level="0",
            target_dir=folder,
            group_name=GROUP,
        )
        distribution = Distribution({"name": "appliance-plane", "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.inplace = True
        command.build_temp = folder
        command.build_lib = str(Path(folder) / "lib")
        command.ensure_finalized()
        command.run()
    files = sorted(str(path.relative_to(ROOT)) for path in _libraries())
    (compiled.FOLDER / compiled.RECORD).write_text(json.dumps({"sources": sources, "files": files}, indent=1) + "\n")


def _remove() -> None:
    (compiled.FOLDER / compiled.RECORD).unlink(missing_ok=True)
    for path in _libraries():
        path.unlink()


def _libraries() -> list[Path]:
    return [*compiled.libraries(), *ROOT.glob(f"{GROUP}__mypyc.*.so")]


if __name__ == "__main__":
    sys.exit(main())
