"""What the command line says when something fails, and with which exit status.

0 done, 1 refused or failed (`CommandFailed`), 2 not understood (click's usage errors), 130 interrupted.
"""

from __future__ import annotations

from typing import IO, Any, Final

import click

INTERRUPTED_STATUS: Final = 130
"""128 + SIGINT, as shells count."""


class CommandFailed(click.ClickException):
    """Exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=file is None)


class Unreachable(CommandFailed):
    """Nobody answered; whether the request took effect is not known."""


class Refused(CommandFailed):
    """The server answered with an error: `status` of HTTP, `code` of the problem document ('' without one)."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Interrupted(CommandFailed):
    """Ctrl-C, with what is good to know: what goes on, and how to take it up again."""

    exit_code = INTERRUPTED_STATUS

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"interrupted: {self.message}", file=file, err=file is None)
