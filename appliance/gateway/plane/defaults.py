"""What a request's JSON body asks, what of it may reach an engine, and what the service adds.

Only the top level is understood, and nested values are passed on as they came. The body is written anew from what
was understood, so a member that came twice reaches the engine once, with the value that was checked. Defaults are
inserted only where the caller set none.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw

from appliance.gateway.plane.errors import INVALID_REQUEST, Refusal
from appliance.gateway.plane.meter import estimate_tokens
from appliance.gateway.plane.route import model_not_found
from appliance.gateway.plane.schemas import SamplingDefaults
from appliance.gateway.plane.tables import ServiceTable

CHAT: Final = "POST /v1/chat/completions"
GENERATIVE: Final = frozenset({CHAT, "POST /v1/completions"})

REFUSED: Final = frozenset(
    {
        "chat_template",  # a Jinja template that would run in the engine
        "chat_template_kwargs",
        "kv_transfer_params",  # addresses of other engines
        "media_io_kwargs",
        "mm_processor_kwargs",
        "priority",  # the tenant's class decides it
        "prompt_embeds",  # serialised tensors
        "vllm_xargs",
    }
)
MAX_DEPTH: Final = 64
MAX_CHOICES: Final = 16
MAX_LOGPROBS: Final = 20
MAX_SCHEMA_BYTES: Final = 256 * 1024
_CAPS: Final = {
    "n": MAX_CHOICES,
    "best_of": MAX_CHOICES,
    "top_logprobs": MAX_LOGPROBS,
    "prompt_logprobs": MAX_LOGPROBS,
}
_SCHEMAS: Final = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_grammar", "tools")
_TOKEN_LIMITS: Final = ("max_completion_tokens", "max_tokens")

_decode_body = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_bool = msgspec.json.Decoder(bool | None).decode
_decode_int = msgspec.json.Decoder(int | None).decode
_encode = msgspec.json.Encoder().encode
_NULL: Final = b"null"
_TRUE: Final = Raw(b"true")


class StreamOptions(msgspec.Struct, omit_defaults=True):
    """What the client may say about a stream. Unknown members are dropped."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Message(msgspec.Struct):
    role: str = ""


_decode_options = msgspec.json.Decoder(StreamOptions | None).decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode


class Prepared:
    """A body ready for the engine. `include_usage` and `continuous_usage`: whether the client asked for them."""

    __slots__ = (
        "body",
        "choices",
        "continuous_usage",
        "include_usage",
        "model",
        "prompt_estimate",
        "stream",
        "token_limit",
    )

    def __init__(self) -> None:
        self.body = b""
        self.model = ""
        self.stream = False
        self.include_usage = False
        self.continuous_usage = False
        self.choices = 1
        self.token_limit = 0
        self.prompt_estimate = 0


def prepare(route: str, body: bytes, service: ServiceTable) -> Prepared:
    """Check `body` and complete it. `Refusal` 400 or 404 for what may not or cannot be forwarded."""
    members = _parse(body)
    prepared = Prepared()
    _refuse_members(members)
    prepared.model = _model(members, service)
    if route in GENERATIVE:
        prompt = members.get("messages") or members.get("prompt")
        prepared.prompt_estimate = estimate_tokens(len(memoryview(prompt))) if prompt is not None else 1
        _insert_defaults(members, service.shard.defaults)
        _limit_tokens(members, service.shard.defaults, prepared)
        if route == CHAT and service.shard.defaults.system_prompt:
            _insert_system_prompt(members, service.shard.defaults.system_prompt)
        _stream(members, service, prepared)
    elif _flag(members, "stream"):
        prepared.stream = True
    if service.shard.cache_salt is not None:
        members["cache_salt"] = Raw(_encode(service.shard.cache_salt))
    prepared.body = _encode(members)
    return prepared


def _parse(body: bytes) -> dict[str, Raw]:
    try:
        if not body.isascii():
            body.decode()
        members = _decode_body(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"The request body is not a JSON object: {_bounded(error)}.") from None
    except RecursionError:
        raise _too_deep() from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise _too_deep()
    return members


def _depth(body: bytes) -> int:
    """The nesting of valid JSON; brackets within strings do not count."""
    deepest = depth = 0
    for byte in _STRING.sub(b"", body).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _refuse_members(members: dict[str, Raw]) -> None:
    refused = REFUSED.intersection(members)
    if refused:
        name = min(refused)
        raise _invalid(f"The member '{name}' is not accepted here; leave it out.", name)
    for name, cap in _CAPS.items():
        if name in members:
            value = _integer(members, name)
            if value is not None and value > cap:
                raise _invalid(f"'{name}' is {value}; at most {cap} is allowed.", name)
    logprobs = members.get("logprobs")
    if logprobs is not None and bytes(logprobs) not in (b"true", b"false"):
        value = _integer(members, "logprobs")
        if value is not None and value > MAX_LOGPROBS:
            raise _invalid(f"'logprobs' is {value}; at most {MAX_LOGPROBS} is allowed.", "logprobs")
    for name in _SCHEMAS:
        if name in members and len(memoryview(members[name])) > MAX_SCHEMA_BYTES:
            raise _invalid(f"'{name}' is larger than {MAX_SCHEMA_BYTES} bytes.", name)


def _model(members: dict[str, Raw], service: ServiceTable) -> str:
    """The model as the client named it; the engine is told its own name."""
    raw = members.get("model")
    served = service.shard.served_model
    name = served
    if raw is not None:
        try:
            name = _decode_str(raw)
        except msgspec.DecodeError:
            raise _invalid("'model' is not a string.", "model") from None
        if name not in service.models:
            raise model_not_found(name)
    if raw is None or name != served:
        members["model"] = Raw(_encode(served))
    return name


def _insert_defaults(members: dict[str, Raw], defaults: SamplingDefaults) -> None:
    for name, value in (
        ("temperature", defaults.temperature),
        ("top_p", defaults.top_p),
        ("repetition_penalty", defaults.repetition_penalty),
    ):
        if value is not None and _unset(members, name):
            members[name] = Raw(_encode(value))


def _limit_tokens(members: dict[str, Raw], defaults: SamplingDefaults, prepared: Prepared) -> None:
    ceiling = defaults.max_tokens_ceiling
    asked: int | None = None
    for name in _TOKEN_LIMITS:
        value = None if _unset(members, name) else _integer(members, name)
        if value is None:
            continue
        if ceiling is not None and value > ceiling:
            raise _invalid(f"'{name}' is {value}; this service allows at most {ceiling}.", name)
        asked = value if asked is None else max(asked, value)
    if asked is None and ceiling is not None:
        members["max_tokens"] = Raw(_encode(ceiling))
        asked = ceiling
    prepared.choices = max(_integer(members, "n") or 1, _integer(members, "best_of") or 1, 1)
    prepared.token_limit = max(asked or 0, 0) * prepared.choices * _prompts(members)


def _prompts(members: dict[str, Raw]) -> int:
    """How many prompts the legacy completions route is asked for: each has its own limit."""
    raw = members.get("prompt")
    if raw is None or bytes(memoryview(raw)[:1]) != b"[":
        return 1
    prompts = msgspec.json.decode(raw)
    return len(prompts) if prompts and not isinstance(prompts[0], int) else 1


def _insert_system_prompt(members: dict[str, Raw], prompt: str) -> None:
    raw = members.get("messages")
    if raw is None:
        return  # the engine says what is missing
    try:
        roles = _decode_messages(raw)
    except msgspec.DecodeError:
        raise _invalid("'messages' is not a list of messages.", "messages") from None
    if any(message.role in ("system", "developer") for message in roles):
        return
    first = _encode({"role": "system", "content": prompt})
    rest = bytes(raw).strip()[1:]
    members["messages"] = Raw(b"[" + first + (b"," if roles else b"") + rest)


def _stream(members: dict[str, Raw], service: ServiceTable, prepared: Prepared) -> None:
    """Ask the engine for usage, and remember what the client asked for itself."""
    if not _flag(members, "stream"):
        return
    prepared.stream = True
    try:
        options = _decode_options(members.get("stream_options", _NULL)) or StreamOptions()
    except msgspec.DecodeError:
        raise _invalid("'stream_options' is not an object of booleans.", "stream_options") from None
    prepared.include_usage = bool(options.include_usage)
    prepared.continuous_usage = bool(options.include_usage and options.continuous_usage_stats)
    options.include_usage = True
    options.continuous_usage_stats = True if service.shard.usage_in_every_chunk else None
    members["stream_options"] = Raw(_encode(options))


def _unset(members: dict[str, Raw], name: str) -> bool:
    raw = members.get(name)
    return raw is None or bytes(raw) == _NULL


def _flag(members: dict[str, Raw], name: str) -> bool:
    raw = members.get(name)
    if raw is None:
        return False
    try:
        return bool(_decode_bool(raw))
    except msgspec.DecodeError:
        raise _invalid(f"'{name}' is not true or false.", name) from None


def _integer(members: dict[str, Raw], name: str) -> int | None:
    raw = members.get(name)
    if raw is None:
        return None
    try:
        value: int | None = _decode_int(raw)
    except msgspec.DecodeError:
        raise _invalid(f"'{name}' is not an integer.", name) from None
    return value


def _invalid(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "invalid_value", message, kind=INVALID_REQUEST, param=param)


def _too_deep() -> Refusal:
    return _invalid(f"The request body is nested more than {MAX_DEPTH} levels deep.")


def _bounded(error: Exception) -> str:
    return str(error)[:200]
