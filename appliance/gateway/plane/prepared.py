"""A body ready for the engine, and what the gateway must know of it."""

from __future__ import annotations

from typing import Final

JSON_FIELDS: Final = b"content-type: application/json\r\n"


class Prepared:
    """`include_usage` and `continuous_usage`: whether the client asked for them. `fields` are the lines of the
    engine's head that describe the body. `token_limit` is the most that all answers together may have (0: not
    limited), `limit_inserted` whether it is the gateway's and not the caller's, `context` the most that the model's
    context leaves for the prompts, or for the answers (0: not known).
    """

    __slots__ = (
        "body",
        "choices",
        "context",
        "continuous_usage",
        "fields",
        "include_usage",
        "limit_inserted",
        "model",
        "point",
        "prompt_estimate",
        "stream",
        "token_limit",
    )

    def __init__(self) -> None:
        self.body = b""
        self.fields = JSON_FIELDS
        self.model = ""
        self.stream = False
        self.include_usage = False
        self.continuous_usage = False
        self.choices = 1
        self.token_limit = 0
        self.context = 0
        self.limit_inserted = False
        self.prompt_estimate = 0
        self.point: int | None = None
        """What prompts with the same beginning have in common (see `affinity`), where that matters."""
