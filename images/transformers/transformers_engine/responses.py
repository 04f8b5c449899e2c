"""Answers in OpenAI's shapes, and server-sent events."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from .sequence import Delta, FinishReason

DONE = b"data: [DONE]\n\n"


def event(payload: dict[str, Any]) -> bytes:
    """One server-sent event; JSON has no raw line breaks, so one `data:` line is enough."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(ABC):
    """What all parts of one answer share; each method gives one JSON body."""

    id: str
    model: str
    prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def whole(self, text: str, last: Delta) -> dict[str, Any]:
        """The answer to a request that is not streamed."""
        return self._body(self.kind, self.content(text), last, usage=True)

    def opening(self, *, usage: bool) -> dict[str, Any] | None:  # noqa: ARG002 - not every kind has one
        """A chunk before any text."""
        return None

    def chunk(self, delta: Delta, *, usage: bool) -> dict[str, Any]:
        return self._body(self.chunk_kind, self.piece(delta.text), delta, usage=usage)

    def closing(self, last: Delta) -> dict[str, Any]:
        """The chunk that carries the usage and no choice."""
        return self._body(self.chunk_kind, None, last, usage=True)

    @abstractmethod
    def content(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def piece(self, text: str) -> dict[str, Any]: ...

    def _body(self, kind: str, content: dict[str, Any] | None, delta: Delta, *, usage: bool) -> dict[str, Any]:
        body = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": [] if content is None else [_choice(content, delta.finish_reason)],
        }
        if usage:
            body["usage"] = {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": delta.completion_tokens,
                "total_tokens": self.prompt_tokens + delta.completion_tokens,
            }
        return body


def _choice(content: dict[str, Any], reason: FinishReason | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": reason}


class ChatAnswer(Answer):
    __slots__ = ()
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def opening(self, *, usage: bool) -> dict[str, Any]:
        delta = {"delta": {"role": "assistant", "content": ""}}
        return self._body(self.chunk_kind, delta, Delta("", 0), usage=usage)

    def content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}}


class CompletionAnswer(Answer):
    __slots__ = ()
    kind = "text_completion"
    chunk_kind = "text_completion"

    def content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def piece(self, text: str) -> dict[str, Any]:
        return {"text": text}
