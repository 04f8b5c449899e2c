"""What is decoded of the JSON that clients and engines send: only the members that matter.

These classes stand apart from the modules that use them because mypyc, which compiles those (`compiled`), drops the
types of a class's members, and msgspec goes by them.
"""

from __future__ import annotations

from typing import Final

import msgspec

MOST_TOKENS: Final = 999_999_999
"""Tokens of one request, whatever an engine says: its word must neither give a budget back nor overflow a count."""


class StreamOptions(msgspec.Struct, omit_defaults=True):
    """What the client may say about a stream. Unknown members are dropped."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Message(msgspec.Struct):
    """A message of a chat."""

    role: str = ""


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    """The names of the responses route."""
    output_tokens: int = 0

    @property
    def prompt(self) -> int:
        return min(max(self.prompt_tokens or self.input_tokens, 0), MOST_TOKENS)

    @property
    def completion(self) -> int:
        return min(max(self.completion_tokens or self.output_tokens, 0), MOST_TOKENS)


class Choice(msgspec.Struct):
    index: int = 0


class Chunk(msgspec.Struct):
    """An event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: object = None


class Answer(msgspec.Struct):
    usage: Usage | None = None


class EngineError(msgspec.Struct):
    """What an error event of the engine says; 500 if it gives no status."""

    message: str = ""
    status: int = 500


class Told(msgspec.Struct):
    """OpenAI's shape of an error."""

    message: str = ""


class ErrorBody(msgspec.Struct):
    """The shapes in which engines tell of an error."""

    error: Told | str | None = None
    message: str = ""
    detail: str | list[dict[str, object]] | dict[str, object] | None = None
