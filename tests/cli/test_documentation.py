"""Every command line that the documentation shows is one that there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from appliance.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _shown(page: Path) -> Iterator[list[str]]:
    """The words of each command within fences, without comments and what it is piped into."""
    for block in _FENCE.findall(page.read_text(encoding="utf-8")) if page.exists() else ():
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\|\||[|;>]", line.split(" #")[0]):
                words = command.strip().removeprefix("$ ")
                if words.startswith("appliance "):
                    yield shlex.split(words)[1:]


SHOWN = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {shlex.join(words)}") for page in PAGES for words in _shown(page)
]


def test_commands_are_found():
    assert len(SHOWN) > 10


@pytest.mark.parametrize("words", SHOWN)
def test_shown_commands_are_understood(words: list[str]):
    command: click.Command = main
    context = click.Context(main, info_name="appliance")
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found
    try:
        command.make_context(command.name, words, parent=context)
    except click.MissingParameter:
        raise
    except click.BadParameter as error:
        assert "does not exist" in error.message  # noqa: PT017 - a file of the example
