"""Tokens to text as they come."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

CONTEXT = 6
"""Prompt tokens the decoder sees first, so that a leading space of the answer is neither lost nor invented."""


class TokenText:
    """Incremental detokenisation; a token that ends inside a character gives "" until the character is complete."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(prompt[-CONTEXT:], skip_special_tokens=True)

    def push(self, token: int) -> str:
        return self._stream.step(self._tokenizer, token) or ""
