"""Resolve the lock files anew: `make lock`. They name versions and hashes and no registry's address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "requirements"
OPTIONS = (
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-header",
    "--quiet",
)


def main() -> None:
    _compile("pyproject.toml", "-o", str(LOCKS / "runtime.lock"))
    _compile("--group", "dev", "pyproject.toml", "-c", str(LOCKS / "runtime.lock"), "-o", str(LOCKS / "dev.lock"))
    _compile(str(LOCKS / "build.in"), "-o", str(LOCKS / "build.lock"))


def _compile(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *arguments], cwd=ROOT, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
