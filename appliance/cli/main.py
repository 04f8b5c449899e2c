"""The entry point. Subcommands are imported when they are called, so that `appliance --help` is quick."""

from __future__ import annotations

import importlib

import click

from appliance import __version__

_COMMANDS = {
    "run": ("appliance.cli.run", "Start the control plane in the foreground."),
    "migrate": ("appliance.cli.migrate", "Bring the database to this release's schema."),
    "service": ("appliance.cli.service", "Publish models and look after them."),
    "tenant": ("appliance.cli.tenant", "Tenants and their quotas."),
    "member": ("appliance.cli.member", "Who belongs to a tenant, in which role."),
    "key": ("appliance.cli.key", "API keys."),
    "model": ("appliance.cli.model", "Models, their versions and files."),
    "gateway": ("appliance.cli.gateway", "Gateways and their ports."),
    "pool": ("appliance.cli.compute", "Compute pools."),
    "node": ("appliance.cli.compute", "Nodes."),
    "device": ("appliance.cli.compute", "Devices."),
    "flavor": ("appliance.cli.compute", "What one replica gets."),
    "runtime": ("appliance.cli.runtime", "Engines, and their environments here."),
    "image": ("appliance.cli.runtime", "Images of the engines."),
    "usage": ("appliance.cli.usage", "Tokens and requests."),
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


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="appliance")
def main() -> None:
    """A multi-tenant AI compute appliance."""


if __name__ == "__main__":
    main()
