"""Continuous batching: which sequences are prefilled, decoded and finished in each step.

Sequences are served first come, first served. A step advances at most one prefill, then decodes one token for every
running sequence, so a long prompt is read in pieces between which the others go on. A sequence is admitted only when
the keys and values of everything running fit `Bounds.kv_tokens` even if all generate as much as they may: nothing
that was admitted ever has to give way.

The device work is behind `Runner`; nothing here imports torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .sequence import Delta, FinishReason, Sequence

PrefillT = TypeVar("PrefillT")
Result = tuple[Sequence, Delta]


class Runner(Protocol[PrefillT]):
    """Model forwards over a batch whose rows are in the order in which sequences joined."""

    def begin(self, sequences: list[Sequence]) -> PrefillT:
        """Prepare to read the prompts of `sequences`; no device work yet."""
        ...

    def advance(self, prefill: PrefillT) -> list[int] | None:
        """Read a piece of the prompts. After the last piece the sequences are the batch's last rows, and their
        first tokens come back.
        """
        ...

    def decode(self, sequences: list[Sequence]) -> list[int]:
        """The next token of each row; `sequences` are the rows' sequences in order."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; `rows` is ascending."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """concurrency: rows of the batch; prefill_tokens: prompt tokens read in a step; kv_tokens: rows x columns."""

    concurrency: int
    prefill_tokens: int
    kv_tokens: int


class Scheduler(Generic[PrefillT]):
    def __init__(self, runner: Runner[PrefillT], bounds: Bounds) -> None:
        self._runner = runner
        self._bounds = bounds
        self._waiting: deque[Sequence] = deque()
        self._joining: list[Sequence] = []
        self._prefill: PrefillT | None = None
        self._running: list[Sequence] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._joining) + len(self._running)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._joining or self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def sequences(self) -> list[Sequence]:
        """All that are not finished."""
        return [*self._running, *self._joining, *self._waiting]

    def step(self) -> list[Result]:
        """One round of device work; what it brought to each sequence, in order."""
        results = self._drop_aborted()
        if self._prefill is None:
            self._choose_joining()
        if self._prefill is not None:
            tokens = self._runner.advance(self._prefill)
            if tokens is not None:
                joined, self._joining, self._prefill = self._joining, [], None
                self._running += joined
                results += self._append(joined, tokens)
        if self._running:
            results += self._append(self._running, self._runner.decode(self._running))
        return results

    def _append(self, sequences: list[Sequence], tokens: list[int]) -> list[Result]:
        results = [(sequence, sequence.append(token)) for sequence, token in zip(sequences, tokens, strict=True)]
        finished = {sequence for sequence, delta in results if delta.finish_reason is not None}
        self._keep(lambda sequence: sequence not in finished)
        return results

    def _drop_aborted(self) -> list[Result]:
        # Read once: others set the flag at any time. A prefill is dropped only as a whole.
        aborted = {sequence for sequence in self.sequences() if sequence.aborted}
        if not aborted:
            return []
        self._keep(lambda sequence: sequence not in aborted)
        self._waiting = deque(sequence for sequence in self._waiting if sequence not in aborted)
        if aborted.issuperset(self._joining):
            self._joining, self._prefill = [], None
        aborted.difference_update(self._joining)
        return [(sequence, Delta("", len(sequence.output), FinishReason.ABORT)) for sequence in aborted]

    def _keep(self, wanted: Callable[[Sequence], bool]) -> None:
        rows = [row for row, sequence in enumerate(self._running) if wanted(sequence)]
        if len(rows) < len(self._running):
            self._running = [self._running[row] for row in rows]
            self._runner.keep(rows)

    def _choose_joining(self) -> None:
        """Begin a prefill of the first waiting sequences that fit, in order; the first prompt may be of any length."""
        group: list[Sequence] = []
        while self._waiting and self._fits([*group, self._waiting[0]]):
            group.append(self._waiting.popleft())
        if group:
            self._joining, self._prefill = group, self._runner.begin(group)

    def _fits(self, group: list[Sequence]) -> bool:
        rows = [*self._running, *group]
        width = max(len(sequence.prompt) for sequence in group)
        return (
            len(rows) <= self._bounds.concurrency
            and (len(group) == 1 or width * len(group) <= self._bounds.prefill_tokens)
            and max(sequence.longest for sequence in rows) * len(rows) <= self._bounds.kv_tokens
        )
