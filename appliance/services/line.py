"""Who is ready to load an engine, in the order in which they became so: in this process, which alone starts engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile


class Line:
    def __init__(self) -> None:
        self._standing: dict[str, None] = {}

    @contextmanager
    def standing(self, replica_id: str) -> Iterator[None]:
        """In the line for as long as the block runs."""
        self._standing[replica_id] = None
        try:
            yield
        finally:
            del self._standing[replica_id]

    def ahead_of(self, replica_id: str) -> frozenset[str]:
        """Those that came before it; all of them for one that does not stand there."""
        return frozenset(takewhile(lambda other: other != replica_id, self._standing))
