"""One running appliance for the tests of the command line, which call it as a person or a script does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.appliance import Appliance, running


class CommandLine:
    """`appliance ...` on the host itself; `tenant` is what `--tenant` says."""

    def __init__(self, appliance: Appliance, tenant: str | None = None) -> None:
        self.appliance = appliance
        self._environ = {"APPLIANCE_TENANT": tenant} if tenant else {}

    def ok(self, *arguments: str, **environ: str) -> str:
        """What is printed for a person; the command succeeds."""
        done = self.appliance.cli(*arguments, **self._environ | environ)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, **environ: str) -> Any:
        """What `--json` prints: exactly one JSON value."""
        return json.loads(self.ok(*arguments, "--json", **environ))

    def fails(self, *arguments: str, status: int = 1, **environ: str) -> str:
        """What is said on the standard error output; nothing else is printed."""
        done = self.appliance.cli(*arguments, **self._environ | environ)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture(scope="package")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="package")
def platform(appliance: Appliance) -> CommandLine:
    return CommandLine(appliance)


@pytest.fixture(scope="package")
def acme(platform: CommandLine) -> CommandLine:
    """Acting for a tenant."""
    platform.ok("tenant", "create", "acme")
    return CommandLine(platform.appliance, "acme")


def rows(table: str) -> list[list[str]]:
    """The cells of a table, without its heading; two blanks part them."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()[1:]]
