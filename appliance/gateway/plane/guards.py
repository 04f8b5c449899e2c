"""What of a JSON body may not reach an engine, and the bounds within which a body is understood at all.

A body that costs out of proportion to its length (millions of tiny strings or brackets, deep nesting) is refused
before it is taken apart: one worker serves many tenants.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Any, Final

import msgspec
from msgspec import Raw

from appliance.gateway.plane.errors import INVALID_REQUEST, Refusal

REFUSED: Final = frozenset(
    {
        "background",  # answers that are kept in the engine, for whoever asks for them
        "chat_template",  # a Jinja template that would run in the engine
        "chat_template_kwargs",
        "conversation",
        "ec_transfer_params",  # addresses of other engines
        "kv_transfer_params",
        "logits_processors",  # names of code to run
        "media_io_kwargs",
        "mm_processor_kwargs",
        "previous_response_id",
        "priority",  # the tenant's class decides it
        "prompt_embeds",  # serialised tensors
        "request_id",  # one client's could be another's
        "vllm_xargs",
    }
)
MAX_DEPTH: Final = 64
MAX_QUOTES: Final = 200_000
MAX_BRACKETS: Final = 200_000
MAX_MEMBERS: Final = 200
MAX_CHOICES: Final = 16
MAX_LOGPROBS: Final = 20
MAX_SCHEMA_BYTES: Final = 256 * 1024
CAPS: Final = {
    "n": MAX_CHOICES,
    "best_of": MAX_CHOICES,
    "logprobs": MAX_LOGPROBS,
    "top_logprobs": MAX_LOGPROBS,
    "prompt_logprobs": MAX_LOGPROBS,
}
SCHEMAS: Final = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_grammar", "tools")
_GUARDED: Final = REFUSED.union(CAPS, SCHEMAS)

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_value = msgspec.json.Decoder(Raw).decode
_decode_int = msgspec.json.Decoder(int | None).decode
_decode_bool = msgspec.json.Decoder(bool | None).decode
_NULL: Final = b"null"
_BOOLEANS: Final = (b"true", b"false")
_BRACKETS: Final = b"[]{}"
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets as steps up and down, in signed bytes."""


def members_of(body: bytes) -> dict[str, Raw]:
    """The members of a JSON object, their values as they came; of a name that comes twice, the last. `Refusal` 400."""
    try:
        _check_bounds(body)
        members = _decode_members(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The request body is not a JSON object: {_bounded(error)}.") from None
    except RecursionError:
        raise _too_deep() from None
    if len(members) > MAX_MEMBERS:
        raise invalid(f"The request body has more than {MAX_MEMBERS} members.")
    return members


def check_json(body: bytes) -> None:
    """`Refusal` 400 if `body` is not one JSON value."""
    try:
        _check_bounds(body)
        _decode_value(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The request body is not JSON: {_bounded(error)}.") from None
    except RecursionError:
        raise _too_deep() from None


def _check_bounds(body: bytes) -> None:
    if not body.isascii():
        body.decode()
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_DEPTH and len(body) <= MAX_QUOTES:
        return
    if brackets > MAX_BRACKETS or body.count(b'"') > MAX_QUOTES:
        raise invalid(f"The request body has more than {MAX_BRACKETS} arrays and objects, or as many quotation marks.")
    if brackets > MAX_DEPTH and nesting(body) > MAX_DEPTH:
        raise _too_deep()


def nesting(body: bytes) -> int:
    """How deep JSON is nested; brackets within strings do not count. What is no JSON gives some number.

    Without its escapes, every other piece between quotation marks is outside of strings. (A pattern that skips
    strings takes many times as long for a picture of some megabytes.)
    """
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return max(accumulate(array("b", outside.translate(_STEPS, _NO_BRACKETS))), default=0)


def check_members(members: dict[str, Raw]) -> None:
    """`Refusal` 400 for members that no engine may get, and for values beyond the caps."""
    if _GUARDED.isdisjoint(members):
        return
    refused = REFUSED.intersection(members)
    if refused:
        name = min(refused)
        raise invalid(f"The member '{name}' is not accepted here; leave it out.", name)
    for name, cap in CAPS.items():
        raw = members.get(name)
        if raw is None or (name == "logprobs" and bytes(raw) in _BOOLEANS):
            continue
        value = integer(members, name)
        if value is not None and not 0 <= value <= cap:
            raise invalid(f"'{name}' is {_shown(value)}; 0 to {cap} is allowed.", name)
    for name in SCHEMAS:
        if name in members and len(memoryview(members[name])) > MAX_SCHEMA_BYTES:
            raise invalid(f"'{name}' is larger than {MAX_SCHEMA_BYTES} bytes.", name)


def unset(members: dict[str, Raw], name: str) -> bool:
    """Whether the caller has set none: absent or null."""
    raw = members.get(name)
    return raw is None or bytes(raw) == _NULL


def flag(members: dict[str, Raw], name: str) -> bool:
    return bool(_scalar(members, name, _decode_bool, "true or false"))


def integer(members: dict[str, Raw], name: str) -> int | None:
    value: int | None = _scalar(members, name, _decode_int, "an integer")
    return value


def _scalar(members: dict[str, Raw], name: str, decode: Any, kind: str) -> Any:
    raw = members.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise invalid(f"'{name}' is not {kind}.", name) from None


def invalid(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "invalid_value", message, kind=INVALID_REQUEST, param=param)


def _too_deep() -> Refusal:
    return invalid(f"The request body is nested more than {MAX_DEPTH} levels deep.")


def _shown(value: int) -> str:
    return str(value) if abs(value) < 10**18 else "out of range"


def _bounded(error: Exception) -> str:
    return str(error)[:200]
