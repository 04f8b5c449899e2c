"""Counters that all workers of a node share without a lock: each adds in a table of its own and reads all tables.

What is counted by one worker is seen by the others' next read; that a row is new is told by the node's generation,
one word to look at before each read. Where a subject's rows are is looked up once per generation and kept.

Gauges are void when their worker is gone: at its replacement's start, or as soon as `sweep` sees that its process
has ended. Sums are kept.

When the table is full a further subject is counted in this process's memory alone: its limit then holds for each
worker by itself and its budget starts anew with the worker (from what the snapshot says is spent). It is logged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.charge import finish_charge
from appliance.gateway.plane.limits.counter import LASTING, Counter
from appliance.gateway.plane.limits.layout import (
    BOOT,
    GENERATION,
    HELD_REQUESTS,
    HELD_TOKENS,
    KIND,
    MOST_ROWS,
    PID,
    ROW_WORDS,
    START,
    SUMS,
    Kind,
)
from appliance.gateway.plane.limits.peer import Peer, ended
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import worker_indexes
from appliance.gateway.plane.status import start_ticks


class Counters:
    """Those of worker `index`; the caller holds its lock. `node_words`, `seen`, `epoch`, `peers` are `Counter`'s."""

    def __init__(self, directory: Path, index: int, log: Log, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._node = layout.Node(directory)
        self._directory = directory
        self._index = index
        self._log = log
        self._boot = layout.boot()
        self._claimed: dict[int, Counter] = {}
        self._retired: dict[int, Counter] = {}
        self._changing = False
        self._changed = False
        self.node_words = self._node.words
        self.seen = -1
        self.epoch = 0
        self.peers: dict[int, Peer] = {}
        self.words = layout.open_table(layout.table_path(directory, index))
        self._rows = layout.rows(self.words)
        self._take_over()

    def _take_over(self) -> None:
        """What the worker before us held is free again; what it counted stays."""
        finish_charge(self.words)
        for at in self._rows.values():
            self.words[at + HELD_REQUESTS] = 0
            self.words[at + HELD_TOKENS] = 0
            if self.words[BOOT] != self._boot and self.words[at + KIND] == Kind.RATE:
                for word in range(SUMS, KIND):
                    self.words[at + word] = 0
        self.words[BOOT] = self._boot
        self.words[START] = start_ticks()
        self.words[PID] = os.getpid()
        self._node.bump()

    # Subjects

    def claim(self, kind: Kind, name: str) -> Counter:
        """The counter of a subject, to be released as often as it was claimed."""
        hashed = self._node.hash(kind, name)
        counter = self._claimed.get(hashed)
        if counter is None:
            counter = self._retired.pop(hashed, None) or self._new(kind, hashed)
            self._claimed[hashed] = counter
        counter.users += 1
        return counter

    def release(self, counter: Counter) -> None:
        """Its row is given up once this worker holds nothing there; a budget's stays while there is room."""
        counter.users -= 1
        if counter.users == 0:
            del self._claimed[counter.hashed]
            self._retired[counter.hashed] = counter

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around many claims: the other workers are told once, at the end. Nothing may be counted within."""
        self._changing = True
        try:
            yield
        finally:
            self._changing = False
            if self._changed:
                self._tell()

    def _new(self, kind: Kind, hashed: int) -> Counter:
        counter = Counter(self, kind, hashed)
        at = self._rows.get(hashed)
        if at is None and len(self._rows) >= self._most_rows:
            self.drop_unused()
        if at is None and len(self._rows) < self._most_rows:
            at = self._rows[hashed] = layout.insert(self.words, hashed, kind)
            self._changed = True
            if not self._changing:
                self._tell()
        if at is None:
            counter.words, counter.shared = memoryview(bytearray(8 * ROW_WORDS)).cast("Q"), False
            self._log.error("limits.table_full", subjects=len(self._rows), kind=kind.name)
        else:
            counter.at = at
        return counter

    def _tell(self) -> None:
        self._changed = False
        self._node.bump()

    def drop_unused(self) -> None:
        """Free the rows that nobody has claimed: of former subjects, and of former workers with this index."""
        for hashed in self._rows.keys() - self._claimed.keys() - self._retired.keys():
            layout.remove(self.words, self._rows.pop(hashed))

    def drop_unused_gauges(self) -> None:
        """As `drop_unused`, but budgets stay. For after a snapshot, when all that is named has been claimed."""
        for hashed in self._rows.keys() - self._claimed.keys() - self._retired.keys():
            if Kind(self.words[self._rows[hashed] + KIND]) not in LASTING:
                layout.remove(self.words, self._rows.pop(hashed))

    # Other workers

    def current(self) -> int:
        """The epoch: another one when a subject's rows may be elsewhere than they were."""
        if self.node_words[GENERATION] != self.seen:
            self.look()
        return self.epoch

    def look(self) -> None:
        """Find the tables of the other workers, and who writes them."""
        self.seen = self.node_words[GENERATION]
        found: dict[int, Peer] = {}
        for index in worker_indexes(self._directory):
            peer = self._peer(index) if index != self._index else None
            if peer is not None:
                peer.look(self._boot)
                found[index] = peer
        for index, peer in self.peers.items():
            if found.get(index) is not peer:
                peer.close()
        self.peers = found
        self.epoch += 1

    def _peer(self, index: int) -> Peer | None:
        path = layout.table_path(self._directory, index)
        try:
            inode = path.stat().st_ino
            known = self.peers.get(index)
            return known if known is not None and known.inode == inode else Peer(path, inode, self._boot)
        except (FileNotFoundError, ValueError):  # of a worker of another version: it is told of when it is replaced
            return None

    def sweep(self) -> None:
        """Periodically: notice workers that have ended, give up the rows of retired subjects."""
        gone = ended([peer.pidfd for peer in self.peers.values() if peer.alive and peer.pidfd is not None])
        for peer in self.peers.values():
            if peer.pidfd in gone:
                peer.close()
                self.epoch += 1
        for hashed, counter in list(self._retired.items()):
            if counter.own(HELD_REQUESTS) == 0 and counter.own(HELD_TOKENS) == 0:
                del self._retired[hashed]
                if counter.shared and counter.kind not in LASTING:
                    layout.remove(self.words, self._rows.pop(hashed))

    def close(self) -> None:
        """The worker ends in order and holds nothing."""
        self.words[PID] = 0
        for peer in self.peers.values():
            peer.close()
        self._node.close()
