"""Which contents an import is about to refer to, so that the collector spares them.

Between the moment when an import finds or places a blob and the commit of its file rows, nothing in the database
says that the blob is wanted. An import therefore claims it first and lets go after its commit. A collection spares
what is claimed when it begins (before it reads the database) and whatever is claimed until it ends; what was let go
earlier has its rows committed, and the collection reads them.

Imports and the collector run in one process: there is one control plane.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

UnlessClaimed: TypeAlias = Callable[[str, Callable[[], None]], bool]
"""`unless_claimed(hash, action)` does the action, or gives False where the hash is claimed."""


class Claims:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._spared: set[str] | None = None

    @contextmanager
    def holding(self) -> Iterator[Callable[[str], None]]:
        """Gives a function that claims a hash until the block ends."""
        mine: list[str] = []

        def claim(sha256: str) -> None:
            with self._lock:
                mine.append(sha256)
                self._held[sha256] += 1
                if self._spared is not None:
                    self._spared.add(sha256)

        try:
            yield claim
        finally:
            with self._lock:
                self._held -= Counter(mine)

    @contextmanager
    def collecting(self) -> Iterator[UnlessClaimed]:
        """For one collection at a time."""
        with self._lock:
            self._spared = set(self._held)

        def unless_claimed(sha256: str, action: Callable[[], None]) -> bool:
            with self._lock:
                if self._spared is None or sha256 in self._spared:
                    return False
                action()
                return True

        try:
            yield unless_claimed
        finally:
            with self._lock:
                self._spared = None
