"""Builds the virtual environments of engines where the process launcher looks for them, so that tests find them.

    python -m tests.support.environments transformers vllm

prints the interpreter of each. The folder is `$APPLIANCE_ENGINES__ENVIRONMENTS`, or `runtimes` below
`$APPLIANCE_HOME` (default: `var`). One that is complete costs nothing.
"""
# ruff: noqa: T201 - a command prints

import asyncio
import os
import sys
from pathlib import Path

from appliance.runtimes import building
from appliance.runtimes.catalog import Catalog


def environments_folder() -> Path:
    if chosen := os.environ.get("APPLIANCE_ENGINES__ENVIRONMENTS"):
        return Path(chosen).absolute()
    return Path(os.environ.get("APPLIANCE_HOME", "var")).absolute() / "runtimes"


async def build(names: list[str]) -> None:
    catalog = Catalog.load()
    for name in names:
        python = await building.ensure(catalog.get(name), environments_folder())
        print(python)


if __name__ == "__main__":
    asyncio.run(build(sys.argv[1:]))
