"""Heads that were admitted before: whoever asks again mostly sends the same one, but for the body's length.

The same bytes mean the same, so such a head is not taken apart, routed and its key looked up again; nor is one that
differs in the digits of its Content-Length alone. What may differ from request to request is checked for each all the
same: the length, the key's expiry and the client's network. The rest is a snapshot's, and the next one's begin anew.

Two generations of limited size: what is asked for stays, however many heads come that are never seen again.
"""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.head import RequestHead, length_in
from appliance.gateway.plane.tables import EMPTY, Tables

MAX_KEPT: Final = 512
"""Heads of a generation."""
MAX_HEAD: Final = 2048
"""Bytes of a head that is kept."""

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
        at, end = length_in(head)
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
        at, end = length_in(head)
        if at and len(head) <= MAX_HEAD:
            self._keep((listener_id, head[:at] + head[end:]), admitted)

    def _keep(self, shape: _Shape, admitted: Admitted) -> None:
        if len(self._now) >= MAX_KEPT:
            self._before, self._now = self._now, {}
        self._now[shape] = admitted
