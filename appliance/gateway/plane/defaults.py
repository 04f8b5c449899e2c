"""What a request's body asks, what of it may reach an engine, and what the service adds.

Of OpenAI's API only the top level is understood, and nested values are passed on as they came. The body is written
anew from what was understood, so a member that came twice reaches the engine once, with the value that was checked.
Defaults are inserted only where the caller set none; `max_tokens` above the service's ceiling is refused rather than
lowered, so that nobody takes a cut answer for a whole one. Bodies of other routes are passed on as they are.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from appliance.gateway.plane.affinity import chat_point, text_point
from appliance.gateway.plane.errors import Refusal, model_not_found
from appliance.gateway.plane.guards import check_json, check_members, flag, integer, invalid, members_of, unset
from appliance.gateway.plane.infer import prepare_infer
from appliance.gateway.plane.media import check_media
from appliance.gateway.plane.meter import estimate_tokens
from appliance.gateway.plane.prepared import Prepared
from appliance.gateway.plane.route import resolve
from appliance.gateway.plane.routes import Body
from appliance.gateway.plane.structs import Message, StreamOptions
from appliance.gateway.plane.tables import ServiceTable

if TYPE_CHECKING:
    from appliance.gateway.plane.limits.limiter import Limiter
    from appliance.gateway.plane.request import Request

__all__ = ["CHAT", "GENERATIVE", "Prepared", "prepare"]

CHAT: Final = "POST /v1/chat/completions"
GENERATIVE: Final = frozenset({CHAT, "POST /v1/completions"})

_CHAT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_TEXT_LIMITS: Final = ("max_tokens",)
"""Engines do not know the newer name on the legacy route, so it limits nothing there."""

_decode_name = msgspec.json.Decoder(str | None).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode
_NULL: Final = b"null"
_decode_options = msgspec.json.Decoder(StreamOptions | None).decode
_decode_messages = msgspec.json.Decoder(list[Message]).decode


def prepare(request: Request, body: bytes, limiter: Limiter | None = None) -> Prepared | None:
    """Check `body`, complete it, and settle the request's service if the body tells it. None for a route without a
    body. `Refusal` for what may not or cannot be forwarded.
    """
    kind = request.matched.route.body
    if kind is Body.OPENAI:
        return _prepare_openai(request, body, limiter)
    if kind is Body.NONE:
        return None
    if kind is Body.INFER:
        prepared = prepare_infer(body, request.head.fields.get(b"inference-header-content-length"))
    else:
        prepared = Prepared()
        prepared.body = body
        if kind is Body.RAW:
            prepared.fields = b"content-type: %b\r\n" % _content_type(request)
        else:
            check_json(body)
    prepared.model = request.matched.model or request.service.shard.served_model
    return prepared


def _prepare_openai(request: Request, body: bytes, limiter: Limiter | None) -> Prepared:
    members = members_of(body)
    prepared = Prepared()
    check_members(members)
    model = _model(members)
    if request.pending is not None:
        request.service = resolve(request.pending, request.matched.route, model, len(body))
    service = request.service
    prepared.model = _set_model(members, model, service)
    check_media(body, members, remote=service.shard.remote_media)
    route = request.route
    if route in GENERATIVE:
        prompt = members.get("messages") or members.get("prompt")
        prepared.prompt_estimate = estimate_tokens(len(memoryview(prompt))) if prompt is not None else 1
        if service.by_prefix and prompt is not None:
            place = chat_point if route == CHAT else text_point
            prepared.point = place(request.key.tenant_id, bytes(prompt))
        for name, value in service.sampling:
            if name not in members or unset(members, name):
                members[name] = value
        _limit_tokens(members, request, prepared, limiter)
        if route == CHAT and service.system_message is not None:
            _insert_system_message(members, service.system_message)
        _stream(members, service, prepared)
    elif flag(members, "stream"):
        prepared.stream = True
    if service.cache_salt is not None:
        members["cache_salt"] = _cache_salt(request, service.cache_salt)
    if service.shard.priorities and request.principal.priority is not None:
        members["priority"] = request.principal.priority
    prepared.body = _encode(members)
    return prepared


def _model(members: dict[str, Raw]) -> str | None:
    """The model as the client named it."""
    raw = members.get("model")
    if raw is None:
        return None
    try:
        name: str | None = _decode_name(raw)
    except msgspec.DecodeError:
        raise invalid("'model' is not a string.", "model") from None
    return name


def _set_model(members: dict[str, Raw], model: str | None, service: ServiceTable) -> str:
    """The engine is told its own name."""
    served = service.shard.served_model
    if model is not None and model not in service.models:
        raise model_not_found(model)
    if model != served:
        members["model"] = service.served_model
    return model or served


def _cache_salt(request: Request, of_service: Raw) -> Raw:
    """Of the key's tenant, whoever owns the service: timing tells nobody what is in another's prefix cache."""
    salt = request.principal.cache_salt
    if salt is not None:
        return salt
    tenant_id = request.key.tenant_id
    if tenant_id == request.service.shard.tenant_id:
        return of_service
    return Raw(_encode(hashlib.sha256(b"%b:%b" % (bytes(of_service), tenant_id.encode())).hexdigest()[:32]))


def _limit_tokens(members: dict[str, Raw], request: Request, prepared: Prepared, limiter: Limiter | None) -> None:
    service = request.service
    asked = _asked_tokens(members, _CHAT_LIMITS if request.route == CHAT else _TEXT_LIMITS, service)
    if "n" in members or "best_of" in members:
        prepared.choices = max(integer(members, "n") or 1, integer(members, "best_of") or 1)
    answers = prepared.choices * _prompts(members)
    if asked is None:
        asked = service.shard.defaults.max_tokens_ceiling
        if limiter is not None and limiter.active:
            asked = limiter.longest_answer(request, prepared.prompt_estimate, answers, asked)
        if asked is not None:
            members["max_tokens"] = Raw(_encode(asked))
            prepared.limit_inserted = True
    prepared.token_limit = (asked or 0) * answers
    prepared.context = (service.shard.context_tokens or 0) * answers


def _asked_tokens(members: dict[str, Raw], names: tuple[str, ...], service: ServiceTable) -> int | None:
    """The longest answer that the caller allows."""
    ceiling = service.shard.defaults.max_tokens_ceiling
    asked: int | None = None
    for name in names:
        value = integer(members, name) if name in members else None
        if value is None:
            continue
        least = 1 if names == _CHAT_LIMITS else 0  # an engine takes 0 in a chat for no limit
        if value < least:
            raise invalid(f"'{name}' is too small; at least {least} is needed.", name)
        if ceiling is not None and value > ceiling:
            raise invalid(f"'{name}' is larger than this service allows; at most {ceiling} is.", name)
        asked = value if asked is None else max(asked, value)
    return asked


def _prompts(members: dict[str, Raw]) -> int:
    """How many prompts the legacy completions route is asked for: each has its own limit."""
    raw = members.get("prompt")
    if raw is None or bytes(memoryview(raw)[:1]) != b"[":
        return 1
    if bytes(memoryview(raw)[1:64]).lstrip()[:1] in _NUMBER:
        return 1  # one prompt, as tokens
    return max(len(_decode_list(raw)), 1)


_NUMBER: Final = frozenset(bytes([byte]) for byte in b"-0123456789")


def _insert_system_message(members: dict[str, Raw], message: bytes) -> None:
    raw = members.get("messages")
    if raw is None:
        return  # the engine says what is missing
    try:
        roles = _decode_messages(raw)
    except msgspec.DecodeError:
        raise invalid("'messages' is not a list of messages.", "messages") from None
    if any(each.role in ("system", "developer") for each in roles):
        return
    rest = bytes(raw).strip()[1:]
    members["messages"] = Raw(b"[" + message + (b"," if roles else b"") + rest)


def _stream(members: dict[str, Raw], service: ServiceTable, prepared: Prepared) -> None:
    """Ask the engine for usage, and remember what the client asked for itself."""
    if "stream" not in members or not flag(members, "stream"):
        return
    prepared.stream = True
    try:
        options = _decode_options(members.get("stream_options", _NULL)) or StreamOptions()
    except msgspec.DecodeError:
        raise invalid("'stream_options' is not an object of booleans.", "stream_options") from None
    prepared.include_usage = bool(options.include_usage)
    prepared.continuous_usage = bool(options.include_usage and options.continuous_usage_stats)
    options.include_usage = True
    options.continuous_usage_stats = True if service.shard.usage_in_every_chunk else None
    members["stream_options"] = Raw(_encode(options))


def _content_type(request: Request) -> bytes:
    """The client's, for a body that is passed on unread."""
    given = request.head.fields.get(b"content-type", b"application/octet-stream")
    if len(given) > _MAX_CONTENT_TYPE or not given.isascii() or not given.decode().isprintable():
        raise Refusal(400, "invalid_value", "The Content-Type header is malformed.")
    return given


_MAX_CONTENT_TYPE: Final = 300
