"""A runner that counts instead of computing, and sequences for it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from transformers_engine.sampling import Limits, Sampling
from transformers_engine.sequence import Delta, Sequence

END = 0


class Spelled:
    """A detokenizer for which a token is the character of its number."""

    def push(self, token: int) -> str:
        return chr(token)


def sequence(
    name: str = "s",
    *,
    prompt: int = 3,
    max_tokens: int = 4,
    stop: tuple[str, ...] = (),
    sink: Callable[[Delta], None] = lambda _: None,
) -> Sequence:
    return Sequence(
        id=name,
        prompt=[1] * prompt,
        sampling=Sampling(),
        limits=Limits(max_tokens=max_tokens, stop=stop, stop_token_ids=frozenset({END})),
        detokenizer=Spelled(),
        sink=sink,
    )


@dataclass
class FakePrefill:
    sequences: list[Sequence]
    left: int


@dataclass
class FakeRunner:
    """Says `script[sequence.id]`, one character a step; keeps the rows that a real one would and checks each call.

    `piece`: prompt tokens that one `advance` reads.
    """

    script: dict[str, str] = field(default_factory=dict)
    piece: int = 1000
    rows: list[Sequence] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    prefills: list[list[str]] = field(default_factory=list)

    def begin(self, sequences: list[Sequence]) -> FakePrefill:
        self.prefills.append([s.id for s in sequences])
        return FakePrefill(sequences, max(len(s.prompt) for s in sequences))

    def advance(self, prefill: FakePrefill) -> list[int] | None:
        prefill.left -= self.piece
        if prefill.left > 0:
            return None
        self.rows += prefill.sequences
        return [self._next(s) for s in prefill.sequences]

    def decode(self, sequences: list[Sequence]) -> list[int]:
        assert sequences == self.rows, "the scheduler and the runner disagree on the rows"
        self.batches.append([s.id for s in sequences])
        return [self._next(s) for s in sequences]

    def keep(self, rows: list[int]) -> None:
        assert rows == sorted(set(rows))
        assert len(rows) < len(self.rows)
        self.rows = [self.rows[row] for row in rows]

    def _next(self, s: Sequence) -> int:
        text = self.script.get(s.id, "x" * 1000)
        position = len(s.output)
        return ord(text[position]) if position < len(text) else END
