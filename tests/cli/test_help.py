"""The command line explains itself, and starts quickly because it imports little."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from appliance.cli.main import main

WITHOUT_JSON = {"run", "migrate"}
"""Not clients of the API: they start things."""


def _commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(names), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, *names, name)


ALL = dict(_commands(main))
LEAVES = {name: command for name, command in ALL.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_has_help(name: str):
    command = ALL[name]
    assert command.help or command.callback.__doc__
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} says nothing"


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in WITHOUT_JSON])
def test_every_command_has_json(name: str):
    assert any("--json" in parameter.opts for parameter in LEAVES[name].params)


@pytest.mark.parametrize("name", ["", "service", "service create"])
def test_help_is_shown(name: str):
    done = _run("-m", "appliance.cli.main", *name.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")


def test_the_exit_statuses_are_documented():
    assert "Exit status: 0 done, 1 refused or failed, 2" in _run("-m", "appliance.cli.main", "--help").stdout


@pytest.mark.parametrize("module", ["main", "service", "model", "key", "tenant", "usage", "audit", "runtime", "status"])
def test_clients_do_not_import_the_server(module: str):
    """What makes the difference between a tenth of a second and one."""
    heavy = ("litestar", "sqlalchemy", "uvicorn", "cryptography", "docker", "alembic", "apscheduler")
    script = f"import sys, appliance.cli.{module}; print([name for name in {heavy!r} if name in sys.modules])"
    assert _run("-c", script).stdout.strip() == "[]"


def test_an_unknown_command_is_a_usage_error():
    done = _run("-m", "appliance.cli.main", "sevice", "list")
    assert done.returncode == 2
    assert "sevice" in done.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
