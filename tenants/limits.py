"""What a key, a service or a tenant may use at most, and where a key may be used: as callers send and get it.

The gateway enforces it from its snapshot; here it is only checked and stored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from appliance.kernel.errors import BadInput, FieldError

MOST_REQUESTS: Final = 10**9
MOST_TOKENS: Final = 10**15

RequestRate = Annotated[int, Meta(ge=1, le=MOST_REQUESTS)]
TokenRate = Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
Concurrency = Annotated[int, Meta(ge=1, le=10**6)]
# `$` also matches before a final line feed in Python, hence the look-ahead.
Route = Annotated[
    str,
    Meta(
        pattern=r"^(GET|HEAD|POST|PUT|PATCH|DELETE) /[A-Za-z0-9._~/{}-]{0,200}$(?!\n)",
        description="such as POST /v1/chat/completions",
    ),
]
Network = Annotated[str, Meta(max_length=64, description="an address or a network, such as 10.0.0.0/8")]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What may be used of a node, whichever of its gateway's workers serves; without a member there is no such limit.

    The minute slides. Tokens are those of prompt and answer.
    """

    requests_per_minute: RequestRate | None = None
    tokens_per_minute: TokenRate | None = None
    concurrent_requests: Concurrency | None = None


class Priority(StrEnum):
    """Whose requests come first where some have to wait."""

    low = "low"
    normal = "normal"
    high = "high"


def stored(limits: Limits) -> dict[str, Any] | None:
    """As a column holds it: null where nothing is limited."""
    return msgspec.to_builtins(limits) or None


def read(column: dict[str, Any] | None) -> Limits:
    return msgspec.convert(column or {}, Limits)


def normal_networks(networks: Sequence[str]) -> list[str]:
    """The networks as they are stored, each once; `BadInput` that points at each one that is none."""
    found: list[str] = []
    errors: list[FieldError] = []
    for position, text in enumerate(networks):
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            errors.append(FieldError(f"/networks/{position}", _hint(text, str(error))))
    if errors:
        raise BadInput("; ".join(error.detail for error in errors), errors=errors)
    return list(dict.fromkeys(found))


def _hint(text: str, problem: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{problem}; write an address or a network such as 192.0.2.0/24"
    return f"{text!r} is an address within a network; write {network} for the network or the address alone"
