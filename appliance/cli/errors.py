"""What the command line says when something fails, and with which exit status."""

from __future__ import annotations

import click


class CommandFailed(click.ClickException):
    """Exit status 1; a usage error is 2 (click's own)."""

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(f"error: {self.message}", err=True)
