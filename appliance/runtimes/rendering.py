"""From a runtime and what a tenant set to the command line and environment of one engine.

The tenant's values are checked again here, against the runtime as it is now, and go in first: where a name is set by
both, the runtime's own value wins. Launchers add what shows the engine its devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from appliance.runtimes import environments as environment_files
from appliance.runtimes.arguments import check_args, check_env, with_defaults
from appliance.runtimes.errors import RuntimeNotStartable
from appliance.runtimes.placeholders import filled
from appliance.runtimes.spec import DockerForm, ProcessForm, RuntimeSpec

CONTAINER_PYTHON: Final = "python3"
CONTAINER_RUNTIME_DIR: Final = "/opt/runtime"
"""Where an image keeps what `images/<runtime>/` holds."""


class Layout(Protocol):
    """Where the engine itself sees its socket, model and cache; a launcher's `layout` gives it."""

    @property
    def socket(self) -> Path: ...
    @property
    def model(self) -> Path | None: ...
    @property
    def cache(self) -> Path | None: ...


class Command(Struct, frozen=True):
    argv: tuple[str, ...]
    env: dict[str, str]


def render(
    spec: RuntimeSpec,
    launcher: str,
    layout: Layout,
    *,
    served_name: str,
    args: Sequence[str] = (),
    env: Mapping[str, str] = {},
    environments: Path,
    command: Sequence[str] | None = None,
) -> Command:
    """The engine's command under `launcher` (`process` or `docker`); `environments` is the folder of the virtual
    environments, `command` the one of a custom image.

    Raises `RuntimeNotStartable` where the runtime has no form for the launcher, and `ArgumentRefused`.
    """
    form = _form(spec, launcher)
    if launcher != "docker" and not environment_files.is_ready(spec, environments):
        raise RuntimeNotStartable(
            f"the environment of the {spec.name} runtime is not built on this machine; build it with "
            f"`appliance runtime build {spec.name}`"
        )
    values = _values(spec, launcher, layout, served_name, environments)
    argv = [filled(word, values) for word in form.command] if command is None else list(command)
    own = {name: filled(value, values) for name, value in form.env.items()}
    return Command((*argv, *with_defaults(spec, check_args(spec, args))), {**check_env(spec, env), **own})


def _form(spec: RuntimeSpec, launcher: str) -> ProcessForm | DockerForm:
    form = spec.docker if launcher == "docker" else spec.process
    if form is None:
        raise RuntimeNotStartable(f"the {spec.name} runtime has no form for the launcher {launcher!r}")
    return form


def _values(spec: RuntimeSpec, launcher: str, layout: Layout, served_name: str, environments: Path) -> dict[str, str]:
    in_container = launcher == "docker"
    return {
        "python": CONTAINER_PYTHON if in_container else str(environment_files.python(spec, environments)),
        "runtime_dir": CONTAINER_RUNTIME_DIR if in_container else str(spec.folder),
        "socket": str(layout.socket),
        "model": str(layout.model or ""),
        "cache_dir": str(layout.cache or ""),
        "served_name": served_name,
    }
