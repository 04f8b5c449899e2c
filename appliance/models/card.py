"""The front matter of a model card (README.md): the few keys that the repository uses.

The card is untrusted text. Front matter is YAML; what cards really hold is scalars and flat lists, so that is what
is read (https://huggingface.co/docs/hub/model-cards#model-card-metadata), by hand, with nothing to be expanded or
constructed. A line that is not understood is passed over.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

LARGEST_FRONT_MATTER: Final = 64 * 1024
MOST_VALUES: Final = 64
LONGEST_VALUE: Final = 128
_FRONT_MATTER: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MEMBER: Final = re.compile(r"^([A-Za-z_][A-Za-z0-9_-]*):(?:[ \t]+(.*))?$")
_ITEM: Final = re.compile(r"^[ \t]*-[ \t]+(.*)$")


class Card(msgspec.Struct, frozen=True):
    """What the card says; `task_type` is its `pipeline_tag`, `framework` its `library_name`."""

    task_type: str | None = None
    framework: str | None = None
    license: str | None = None
    languages: list[str] = []
    tags: list[str] = []


def read_card(text: str) -> Card:
    """The card of a README; empty where there is no front matter."""
    found = _FRONT_MATTER.match(text[:LARGEST_FRONT_MATTER])
    values = _values(found.group(1)) if found else {}
    return Card(
        task_type=_first(values, "pipeline_tag"),
        framework=_first(values, "library_name"),
        license=_first(values, "license"),
        languages=values.get("language", []),
        tags=values.get("tags", []),
    )


def _first(values: dict[str, list[str]], key: str) -> str | None:
    return next(iter(values.get(key, [])), None)


def _values(front_matter: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    current: list[str] = []
    for line in front_matter.splitlines():
        if member := _MEMBER.match(line):
            current = values.setdefault(member.group(1), [])
            current.extend(_scalars(member.group(2) or ""))
        elif item := _ITEM.match(line):
            current.extend(_scalars(item.group(1)))
        elif line.strip() and not line.startswith((" ", "\t", "#")):
            current = []
    return {key: found[:MOST_VALUES] for key, found in values.items()}


def _scalars(text: str) -> list[str]:
    text = re.sub(r"(^|[ \t])#.*$", "", text).strip()
    if text.startswith("[") and text.endswith("]"):
        return [scalar for part in text[1:-1].split(",") for scalar in _scalars(part)]
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    usable = 0 < len(text) <= LONGEST_VALUE and text.isprintable() and text[0] not in "[{&*|>!%@`"
    return [text] if usable and text not in ("null", "~") else []
