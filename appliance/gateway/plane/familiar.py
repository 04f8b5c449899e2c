"""Heads that were admitted before: whoever asks again mostly sends the same one, but for the body's length.

The same bytes mean the same, so such a head is not taken apart, routed and its key looked up again; nor is one that
differs in the digits of its Content-Length alone. What may differ from request to request is checked for each all the
same: the length, the key's expiry and the client's network. The rest is a snapshot's, and the next one's begin anew.

Two generations of limited size: what is asked for stays, however many heads come that are never seen again.
"""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.head import MAX_LENGTH_DIGITS, RequestHead
from appliance.gateway.plane.tables import EMPTY, Tables

MAX_KEPT: Final = 512
"""Heads of a generation."""
MAX_HEAD: Final = 2048
"""Bytes of a head that is kept."""
_NAMES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""As clients write it; of two of the same length."""
_NAME_BYTES: Final = len(_NAMES[0])


_Shape = tuple[str, bytes]
"""The listener, and a head without the digits of its length."""


class FamiliarHeads:
    """Those of one worker."""

    __slots__ = ("_before", "_now", "_tables")

    def __init__(self) -> None:
        self._begin(EMPTY)

    def _begin(self, tables: Tables) -> None:
        self._tables = tables
        self._now: dict[_Shape, Admitted] = {}
        self._before: dict[_Shape, Admitted] = {}

    def find(self, head: bytes, listener_id: str, tables: Tables) -> tuple[Admitted, RequestHead] | None:
        """What came of such a head, and this one as it would be understood. `tables`: those in force."""
        if tables is not self._tables:
            self._begin(tables)
        at, end = _length_in(head)
        if not at:
            return None
        shape = (listener_id, head[:at] + head[end:])
        admitted = self._now.get(shape)
        if admitted is None:
            admitted = self._before.get(shape)
            if admitted is None:
                return None
            self._keep(shape, admitted)
        return admitted, admitted.head.of_length(int(head[at:end]))

    def keep(self, head: bytes, listener_id: str, admitted: Admitted) -> None:
        """For a `head` that `find` has just not found: what came of it."""
        at, end = _length_in(head)
        if at and len(head) <= MAX_HEAD:
            self._keep((listener_id, head[:at] + head[end:]), admitted)

    def _keep(self, shape: _Shape, admitted: Admitted) -> None:
        if len(self._now) >= MAX_KEPT:
            self._before, self._now = self._now, {}
        self._now[shape] = admitted


def _length_in(head: bytes) -> tuple[int, int]:
    """Where the digits of its Content-Length are, as clients write it; (0, 0) if they are not."""
    at = head.find(_NAMES[0])
    if at < 0:
        at = head.find(_NAMES[1])
        if at < 0:
            return 0, 0
    at += _NAME_BYTES
    end = head.find(b"\r", at)
    digits = head[at:end]
    return (at, end) if digits.isdigit() and len(digits) <= MAX_LENGTH_DIGITS else (0, 0)
