"""The command line and environment of an engine."""

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from appliance.runtimes.catalog import RuntimeSpec
from appliance.runtimes.errors import ArgumentRefused, RuntimeNotStartable
from appliance.runtimes.rendering import Command, render
from appliance.runtimes.spec import ProcessForm


@dataclass(frozen=True)
class Layout:
    socket: Path = Path("/run/e/rpl_1/engine.sock")
    model: Path | None = Path("/models/ver_1")
    cache: Path | None = None


def rendered(runtime: RuntimeSpec, launcher: str, **settings: object) -> Command:
    defaults: dict[str, object] = {"served_name": "chat", "environments": Path("/nowhere")}
    return render(runtime, launcher, Layout(), **(defaults | settings))  # type: ignore[arg-type]


def test_a_process(runtime: RuntimeSpec) -> None:
    command = rendered(runtime, "process", args=["--eager", "--share", "0.5"], env={"LIGHT_LEVEL": "1"})
    assert command.argv == (
        *(sys.executable, "-m", "light", "--model", "/models/ver_1", "--uds", "/run/e/rpl_1/engine.sock"),
        *("--name=chat", "--eager", "--share=0.5"),
    )
    assert command.env == {"LIGHT_LEVEL": "1", "PYTHONPATH": str(runtime.folder), "LIGHT_MODE": "fixed"}


def test_a_container(runtime: RuntimeSpec) -> None:
    command = rendered(runtime, "docker")
    assert command.argv[:3] == ("python3", "-m", "light")
    assert command.env == {}


def test_the_runtimes_own_values_win(runtime: RuntimeSpec) -> None:
    assert rendered(runtime, "process", env={"LIGHT_MODE": "free"}).env["LIGHT_MODE"] == "fixed"


def test_a_name_that_looks_like_a_placeholder_stays_one(runtime: RuntimeSpec) -> None:
    assert "--name={socket}" in rendered(runtime, "process", served_name="{socket}").argv


def test_stored_values_are_checked_again(runtime: RuntimeSpec) -> None:
    with pytest.raises(ArgumentRefused):
        rendered(runtime, "process", args=["--seed=1"])


def test_a_custom_images_command(runtime: RuntimeSpec) -> None:
    assert rendered(runtime, "docker", command=["serve"], args=["--eager"]).argv == ("serve", "--eager")


def test_a_launcher_without_a_form(runtime: RuntimeSpec) -> None:
    with pytest.raises(RuntimeNotStartable, match="no form for the launcher 'docker'"):
        rendered(msgspec.structs.replace(runtime, docker=None), "docker")


def test_an_environment_that_is_not_built(runtime: RuntimeSpec) -> None:
    form = ProcessForm(command=("{python}",), install=(("wheel",),))
    with pytest.raises(RuntimeNotStartable, match="appliance runtime build light"):
        rendered(msgspec.structs.replace(runtime, process=form), "process")


def test_defaults_of_the_runtime_come_with_the_arguments(runtime: RuntimeSpec) -> None:
    spec = msgspec.structs.replace(runtime, default_args=("--share=0.5",))
    assert rendered(spec, "process").argv[-1] == "--share=0.5"
    assert rendered(spec, "process", args=["--share", "1"]).argv[-1] == "--share=1"
    assert "--share=0.5" not in rendered(spec, "process", args=["--share", "1"]).argv
