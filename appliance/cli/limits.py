"""Options that several commands have: limits, and members of an object of which the others stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

NONE: Final = "none"


class _Bound(click.ParamType[int | str]):
    """A positive whole number, or `none`."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == NONE or isinstance(value, int):
            return NONE if value == NONE else int(value)
        if not (isinstance(value, str) and value.isascii() and value.isdecimal() and int(value) > 0):
            self.fail(f"{value!r} is neither a positive whole number nor `none`", param, ctx)
        return int(value)


_LIMITS: Final = {
    "requests_per_minute": "requests it may make in any minute, or `none`",
    "tokens_per_minute": "tokens of prompts and answers in any minute, or `none`",
    "concurrent_requests": "requests at the same time, or `none`",
}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--requests-per-minute`, `--tokens-per-minute` and `--concurrent-requests`."""
    for member, help_ in reversed(_LIMITS.items()):
        command = click.option(f"--{member.replace('_', '-')}", member, type=_Bound(), help=help_)(command)
    return command


def take_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Take the limits that were given out of a command's options."""
    return take(options, _LIMITS)


def take(options: dict[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """Take these options out; those that were not given are left out."""
    taken = {member: options.pop(member) for member in members}
    return {member: value for member, value in taken.items() if value is not None}


def merged(before: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the changes made; `none` takes a member away."""
    after = {**(before or {}), **changes}
    return {member: value for member, value in after.items() if value != NONE}
