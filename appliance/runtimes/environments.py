"""Virtual environments of the process launcher: where they are and whether they are whole. Nothing is built here.

`<environments>/<runtime>/<digest>/` holds one, where the digest is of what was asked of pip and of the interpreter.
So a new version of a runtime gets a new folder, and engines that run from the old one keep it. The stamp is written
last: a folder without it is a build that was cut. Where pip finds packages is the user's choice (`PIP_INDEX_URL`,
`PIP_EXTRA_INDEX_URL`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from appliance.runtimes.spec import RuntimeSpec

STAMP = ".complete"
_DIGITS = 16


def folder_of(spec: RuntimeSpec, environments: Path) -> Path:
    """Where the environment of this version of the runtime is, or will be."""
    return environments / spec.name / digest(spec)


def python(spec: RuntimeSpec, environments: Path) -> Path:
    """The interpreter that `{python}` stands for: ours for a runtime that installs nothing."""
    if not needs_environment(spec):
        return Path(sys.executable)
    return folder_of(spec, environments) / "bin" / "python"


def needs_environment(spec: RuntimeSpec) -> bool:
    return spec.process is not None and bool(spec.process.installs)


def is_ready(spec: RuntimeSpec, environments: Path) -> bool:
    """Whether the process launcher can start the runtime now."""
    if spec.process is None:
        return False
    return not needs_environment(spec) or (folder_of(spec, environments) / STAMP).is_file()


def digest(spec: RuntimeSpec) -> str:
    """Of pip's arguments, every requirements file beside them, and the interpreter's version."""
    installs = spec.process.installs if spec.process is not None else ()
    seen = hashlib.sha256(json.dumps([installs, sys.version_info[:2]]).encode())
    for file in sorted([*spec.folder.glob("*.txt"), *spec.folder.glob("*.lock")]) if installs else ():
        content = file.read_bytes()
        seen.update(f"\0{file.name}\0{len(content)}\0".encode())
        seen.update(content)
    return seen.hexdigest()[:_DIGITS]
