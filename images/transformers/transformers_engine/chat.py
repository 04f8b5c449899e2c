"""Prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from .errors import InvalidRequest
from .text import TokenText


class Prompts:
    """Renders and encodes with the model's own tokenizer and chat template.

    Safe to call from several threads at once: encoding uses the tokenizer's immutable backend only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()

    def chat(self, messages: Items[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation, ending where the assistant is to speak."""
        if not self._tokenizer.chat_template:
            raise InvalidRequest("this model has no chat template; use /v1/completions", param="messages")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def completion(self, prompt: str) -> list[int]:
        """Token ids of plain text, with the special tokens that the tokenizer puts around a text."""
        ids: list[int] = self.backend.encode(prompt, add_special_tokens=True).ids
        return ids

    def detokenizer(self, prompt: list[int]) -> TokenText:
        return TokenText(self.backend, prompt)
