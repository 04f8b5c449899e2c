"""Request bodies: what is understood, what is refused.

A field that is not understood is an error, never silence. Fields of OpenAI's and vLLM's APIs that this engine does
not implement are accepted at the value that means "not used", because client libraries send those.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from .errors import InvalidRequest

WITHOUT_EFFECT = frozenset(
    # Names and hints that change no answer. There is no prefix cache here, so nothing that a salt would part.
    ("user", "metadata", "safety_identifier", "prompt_cache_key", "cache_salt", "request_id")
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "tool_calls": ([],),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "priority": (0,),
    "min_tokens": (0,),
    "length_penalty": (1.0,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (True, False),
}
MAX_STOPS = 16


class StreamOptions(Struct, forbid_unknown_fields=True):
    """`continuous_usage_stats` puts the counts so far into every chunk; it needs `include_usage`, as in vLLM."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """What both endpoints have in common; None means that the caller set nothing."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Message(Struct, forbid_unknown_fields=True):
    """One turn of a conversation; which roles there are is up to the model's chat template."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        content = self.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return {"role": self.role, "content": text} | ({"name": self.name} if self.name else {})


class ChatRequest(GenerationRequest, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None


class CompletionRequest(GenerationRequest, kw_only=True):
    prompt: Any

    def single_prompt(self) -> str | list[int]:
        """The one prompt, as text or token ids.

        Raises `InvalidRequest` for several prompts, which this engine does not take in one request.
        """
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _all_token_ids(prompt)):
            return prompt
        raise InvalidRequest(
            "`prompt` must be one string or one non-empty list of token ids; send several prompts as several requests",
            param="prompt",
        )


def _all_token_ids(items: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in items)


RequestT = TypeVar("RequestT", bound=GenerationRequest)


def parse(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in `body`; raises `InvalidRequest` naming the field that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object")
    document = _without_neutral(document)
    if isinstance(messages := document.get("messages"), list):
        document["messages"] = [_without_neutral(m) if isinstance(m, dict) else m for m in messages]
    try:
        request = msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from error
    _check_stops(request)
    return request


def _without_neutral(document: dict[str, Any]) -> dict[str, Any]:
    """The fields that say something; raises for those that ask for what is not implemented."""
    kept = {}
    for name, value in document.items():
        if value is None or name in WITHOUT_EFFECT:
            continue
        if name in NEUTRAL:
            if not any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
                raise InvalidRequest(f"`{name}` is not supported by this engine; leave it out", param=name)
            continue
        kept[name] = value
    return kept


def _check_stops(request: GenerationRequest) -> None:
    stops = request.stops()
    if len(stops) > MAX_STOPS or "" in stops:
        raise InvalidRequest(f"`stop` takes up to {MAX_STOPS} strings, none of them empty", param="stop")


def _explained(message: str) -> InvalidRequest:
    """Msgspec's message with the field's name as OpenAI's `param`: "Expected `int`, got `str` - at `$.seed`"."""
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        name = unknown.group(1)
        return InvalidRequest(f"`{name}` is not supported by this engine; leave it out", param=name)
    if missing := re.search(r"missing required field `([^`]+)`", message):
        return InvalidRequest(message, param=missing.group(1))
    where = re.search(r" - at `\$\.?([^`]*)`", message)
    return InvalidRequest(message.replace("`$.", "`"), param=where.group(1) if where else None)
