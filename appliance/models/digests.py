"""Running SHA-256 states of files that are being uploaded, so that a complete file need not be read again.

A state is only a shortcut: where it is missing (a restart, many uploads at once) the file is read from the disk.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

MOST = 1024


class Digests:
    def __init__(self) -> None:
        self._states: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()

    def take(self, file: str, offset: int) -> _Hash | None:
        """The state after exactly `offset` bytes of the file; it is the caller's from now on."""
        if offset == 0:
            self._states.pop(file, None)
            return hashlib.sha256()
        known = self._states.pop(file, None)
        return known[1] if known is not None and known[0] == offset else None

    def put(self, file: str, offset: int, state: _Hash) -> None:
        self._states[file] = (offset, state)
        while len(self._states) > MOST:
            self._states.popitem(last=False)
