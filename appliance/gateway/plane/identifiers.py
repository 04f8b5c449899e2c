"""Request ids: unguessable, made from the kernel's randomness in batches (a call each would cost more than the id)."""

from __future__ import annotations

import os
import re
from typing import Final

_BYTES: Final = 12
_BATCH: Final = 256
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")


class RequestIds:
    def __init__(self) -> None:
        self._pool = ""
        self._at = 0

    def next(self) -> str:
        if self._at >= len(self._pool):
            self._pool = os.urandom(_BYTES * _BATCH).hex()
            self._at = 0
        start = self._at
        self._at = start + 2 * _BYTES
        return f"req_{self._pool[start : self._at]}"


def well_formed(request_id: bytes) -> bool:
    """Whether a client's own id may be echoed and logged."""
    return _WELL_FORMED.fullmatch(request_id) is not None
