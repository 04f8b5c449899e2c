"""From a parsed request to text: the sequence it becomes, and the stream of what is generated for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from .errors import ContextLengthExceeded, EngineError, InvalidRequest
from .sampling import Limits, Sampling
from .schemas import ChatRequest, GenerationRequest
from .sequence import Delta, Detokenizer, Sequence

COMPLETION_DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; a chat may fill the context


class PromptEncoder(Protocol):
    def chat(self, messages: list[dict[str, str]]) -> list[int]: ...
    def completion(self, prompt: str) -> list[int]: ...
    def detokenizer(self, prompt: list[int]) -> Detokenizer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What requests are checked against."""

    name: str
    max_model_len: int
    vocabulary: int
    end_tokens: frozenset[int]
    sampling: Sampling


def sampling_of(request: GenerationRequest, model: ModelFacts) -> Sampling:
    """The model's defaults, overridden by what the caller set; vLLM's top-k of -1 means the same as 0."""
    values = {name: getattr(request, name) for name in Sampling.__dataclass_fields__}
    if values["top_k"] == -1:
        values["top_k"] = 0
    return model.sampling.overridden_by(values)


def limits_of(request: GenerationRequest, prompt: list[int], model: ModelFacts) -> Limits:
    """When to stop; raises `ContextLengthExceeded` when prompt and answer cannot fit."""
    if not prompt:
        raise InvalidRequest("the prompt has no tokens")
    if any(token >= model.vocabulary for token in prompt):
        raise InvalidRequest(f"token ids must be below the vocabulary size of {model.vocabulary}", param="prompt")
    room = model.max_model_len - len(prompt)
    if isinstance(request, ChatRequest):
        asked, default = request.max_completion_tokens or request.max_tokens, room
    else:
        asked, default = request.max_tokens, min(COMPLETION_DEFAULT_MAX_TOKENS, room)
    wanted = asked or default
    if room < 1 or wanted > room:
        answer = f" and {asked} for the answer" if asked else ""
        raise ContextLengthExceeded(
            f"this model's context is {model.max_model_len} tokens, but {len(prompt)} are in the prompt{answer}; "
            "shorten the prompt or lower `max_tokens`",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
        )
    ends = frozenset() if request.ignore_eos else model.end_tokens
    return Limits(max_tokens=wanted, stop=request.stops(), stop_token_ids=ends | frozenset(request.stop_token_ids))


class Generation:
    """The consumer's side of one sequence, on the event loop.

    Steps that come while the consumer is busy are merged, so a slow reader costs no more memory than its answer.
    """

    def __init__(self) -> None:
        self._pending: Delta | None = None
        self._arrived = asyncio.Event()
        self.sequence: Sequence | None = None

    def feed(self, delta: Delta) -> None:
        earlier = self._pending.text if self._pending else ""
        self._pending = Delta(earlier + delta.text, delta.completion_tokens, delta.finish_reason, delta.error)
        self._arrived.set()

    async def next(self) -> Delta:
        """What came since the last call; waits for something. Raises `EngineError` when the engine failed."""
        await self._arrived.wait()
        self._arrived.clear()
        delta, self._pending = self._pending, None
        if delta is None:
            raise RuntimeError("one consumer per generation")
        if delta.error is not None:
            raise EngineError(delta.error)
        return delta

    def abort(self) -> None:
        """Make the engine drop the sequence before its next step; harmless after the end."""
        if self.sequence is not None:
            self.sequence.aborted = True
