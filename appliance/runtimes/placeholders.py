"""`{name}` in the commands and variables of a runtime.toml; other braces are left as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

NAMES: Final = frozenset({"python", "socket", "model", "served_name", "runtime_dir", "cache_dir"})
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def unknown_placeholders(text: str) -> list[str]:
    return [found.group(0) for found in _PLACEHOLDER.finditer(text) if found.group(1) not in NAMES]


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders replaced, once: a value that looks like a placeholder stays as it is."""
    return _PLACEHOLDER.sub(lambda found: values[found.group(1)], text)
