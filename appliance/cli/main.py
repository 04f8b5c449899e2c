"""The entry point. Subcommands are imported when they are called, so that `appliance --help` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

import click

from appliance import __version__
from appliance.cli.errors import INTERRUPTED_STATUS

_COMMANDS = {
    "run": ("appliance.cli.run", "Start the control plane in the foreground."),
    "migrate": ("appliance.cli.migrate", "Bring the database to this release's schema."),
    "status": ("appliance.cli.status", "Whether the appliance works, and what its reconcilers did last."),
    "service": ("appliance.cli.service", "Publish models and look after them."),
    "model": ("appliance.cli.model", "Models, their versions and files."),
    "key": ("appliance.cli.key", "API keys."),
    "budget": ("appliance.cli.budget", "Token budgets of keys, services and tenants."),
    "usage": ("appliance.cli.usage", "Tokens, requests and latencies."),
    "tenant": ("appliance.cli.tenant", "Tenants and their quotas."),
    "quota": ("appliance.cli.quota", "Counted limits of tenants and of the platform, with their use."),
    "member": ("appliance.cli.member", "Who belongs to a tenant, in which role."),
    "user": ("appliance.cli.user", "The users of the platform."),
    "gateway": ("appliance.cli.gateway", "Gateways and their ports."),
    "pool": ("appliance.cli.pool", "Compute pools."),
    "node": ("appliance.cli.node", "Nodes."),
    "device": ("appliance.cli.device", "Devices."),
    "gpu": ("appliance.cli.gpu", "What devices do now and did before."),
    "grant": ("appliance.cli.grant", "Who may use dedicated pools, gateways and device classes."),
    "reservation": ("appliance.cli.reservation", "Devices that are kept for a tenant for a time."),
    "flavor": ("appliance.cli.flavor", "What one replica gets."),
    "runtime": ("appliance.cli.runtime", "Engines, and their environments here."),
    "image": ("appliance.cli.image", "Images of the engines."),
    "audit": ("appliance.cli.audit", "Who did what."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Like click's own, but Ctrl-C ends with the status and the few words that shells expect."""
        try:
            status = super().main(*args, **options | {"standalone_mode": False})
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED_STATUS)
        sys.exit(status if isinstance(status, int) else 0)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="appliance")
def main() -> None:
    """A multi-tenant AI compute appliance.

    On the host itself every command finds the running appliance and the operator's key under APPLIANCE_HOME;
    elsewhere give --url, --key and --ca, or set APPLIANCE_URL, APPLIANCE_KEY and APPLIANCE_CA. The operator acts for
    a tenant with --tenant or APPLIANCE_TENANT. Objects are named by their name or id.

    With --json a command prints exactly one JSON value: an object, or an array for a list. Progress, events and
    questions go to the standard error output. Deletions ask on a terminal unless --yes is given, and never elsewhere.

    Exit status: 0 done, 1 refused or failed, 2 the command was not understood, 130 interrupted.
    """


if __name__ == "__main__":
    main()
