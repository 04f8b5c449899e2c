"""Building a runtime's environment or image on this machine."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from pathlib import Path

import click

from appliance.cli.errors import CommandFailed
from appliance.cli.output import tell
from appliance.kernel.errors import ApplianceError
from appliance.kernel.resources import resource
from appliance.kernel.settings import Settings, load
from appliance.runtimes.building import ensure
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.spec import RuntimeSpec


def build_environment(name: str) -> dict[str, str]:
    """Build, telling the progress; what was built and which interpreter runs it."""
    try:
        settings, spec = _find(name)
        interpreter = asyncio.run(ensure(spec, _environments(settings), tell))
    except ApplianceError as error:
        raise CommandFailed(error.detail) from error
    return {"runtime": spec.name, "engine_version": spec.engine_version, "python": str(interpreter)}


def build_image(name: str, *, only_print: bool) -> None:
    """Run `images/build.sh`, whose output is the command's, or only show the line."""
    try:
        settings, spec = _find(name)
    except ApplianceError as error:
        raise CommandFailed(error.detail) from error
    command = [str(resource("images/build.sh")), spec.name]
    environ = {"APPLIANCE_ENGINES__ENVIRONMENTS": str(_environments(settings))}
    if only_print:
        words = [f"{variable}={shlex.quote(value)}" for variable, value in environ.items()]
        click.echo(" ".join([*words, shlex.join(command)]))
        return
    status = subprocess.run(command, env=os.environ | environ, check=False).returncode  # noqa: S603 - ours
    if status != 0:
        raise CommandFailed(f"{shlex.join(command)} ended with status {status}")


def _find(name: str) -> tuple[Settings, RuntimeSpec]:
    settings = load(os.environ)
    return settings, Catalog.load([Path(folder) for folder in settings.engines.runtime_folders]).get(name)


def _environments(settings: Settings) -> Path:
    return Path(settings.engines.environments or settings.home_path / "runtimes").absolute()
