"""The exact solver's library, in an environment of its own whose packages are only seen here."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from bench.gateway.environments import bench_home

REQUIREMENT: Final = "ortools==9.15.6755"


def with_solver() -> None:
    """Have OR-tools importable; `CalledProcessError` if it cannot be installed."""
    folder = bench_home() / "placement"
    if not (folder / "ortools").exists():
        print(f"installing {REQUIREMENT} ...", file=sys.stderr, flush=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(folder),
        ]
        subprocess.run([*pip, REQUIREMENT], check=True, stdout=sys.stderr)
    sys.path.append(str(folder))
