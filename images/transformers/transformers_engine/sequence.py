"""One request while the engine works on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .sampling import Limits, Sampling
from .stopping import StopStrings


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Detokenizer(Protocol):
    """Turns token ids, one at a time, into the text that they complete."""

    def push(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step brought to one sequence: text that may be empty, and counts so far."""

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """A prompt, the tokens generated for it, and where its text goes.

    Only the engine thread changes a sequence, with one exception: anybody may set `aborted`, which the engine
    honours before its next step.
    """

    id: str
    prompt: list[int]
    sampling: Sampling
    limits: Limits
    detokenizer: Detokenizer
    sink: Callable[[Delta], None]
    arrived: float = field(default_factory=time.monotonic)
    output: list[int] = field(default_factory=list)
    aborted: bool = False
    stops: StopStrings = field(init=False)

    def __post_init__(self) -> None:
        self.stops = StopStrings(self.limits.stop)

    @property
    def longest(self) -> int:
        """Most tokens that the sequence can come to hold, prompt and answer together."""
        return len(self.prompt) + self.limits.max_tokens

    def append(self, token: int) -> Delta:
        """Take the next token; the delta carries a finish reason when it was the last."""
        self.output.append(token)
        count = len(self.output)
        if token in self.limits.stop_token_ids:
            return Delta(self.stops.flush(), count, FinishReason.STOP)
        text = self.stops.push(self.detokenizer.push(token))
        if self.stops.matched is not None:
            return Delta(text, count, FinishReason.STOP)
        if count >= self.limits.max_tokens:
            return Delta(text + self.stops.flush(), count, FinishReason.LENGTH)
        return Delta(text, count)
