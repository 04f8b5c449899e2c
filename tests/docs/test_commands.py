"""Commands that documents tell people to type are commands that there are, with options that they have."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
import pytest

from appliance.cli.main import main
from tests.docs.documents import ROOT, markdown

_SHELL = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TARGET = re.compile(r"^([a-z-]+):.*##", re.MULTILINE)
_ENDS: Final = frozenset({"&&", "||", "|", ";"})


def _typed(file: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of `program` in the document's shell blocks."""
    for block in _SHELL.findall(file.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if word not in _ENDS:
                    words.append(word)
                    continue
                if words and words[0] == program:
                    yield words[1:]
                words = []


def _all(program: str) -> list[tuple[str, list[str]]]:
    return [(str(file.relative_to(ROOT)), words) for file in markdown() for words in _typed(file, program)]


@pytest.mark.parametrize(("file", "words"), _all("appliance"), ids=lambda part: part if isinstance(part, str) else None)
def test_commands_exist_with_their_options(file: str, words: list[str]):
    command: click.Command = main
    context = click.Context(main, info_name="appliance")
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        found = command.get_command(context, rest[0])
        assert found is not None, f"{file}: appliance {shlex.join(words)}"
        command, context, rest = found, click.Context(found, info_name=rest[0], parent=context), rest[1:]
    given, extra, _ = command.make_parser(context).parse_args(args=rest)
    missing = [parameter.name for parameter in command.params if parameter.required and not _has(given, parameter.name)]
    assert not extra
    assert not missing


def _has(given: Mapping[str, Any], name: str | None) -> bool:
    """An argument that was left out is there as a sentinel of click's."""
    return name in given and isinstance(given[name], str | bool | list | tuple) and given[name] != ()


def test_targets_of_make_exist():
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    named = {word for _, words in _all("make") for word in words if re.fullmatch(r"[a-z-]+", word)}
    assert named
    assert named <= targets
