"""Pictures, sounds and films within messages: they come in the request (`data:` URIs), or not at all.

An engine that fetches a URL for a client reaches what the client cannot (loopback, the node's network, its own
files). A container of ours has no network, but an engine that is a plain process has the node's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from msgspec import Raw

from appliance.gateway.plane.guards import SCHEMAS, invalid

URLS: Final = frozenset({"audio_url", "file_url", "image_url", "video_url"})
TENSORS: Final = frozenset({"audio_embeds", "image_embeds", "prompt_embeds", "video_embeds"})
_MARKS: Final = (b"_url", b"_embeds")
_ESCAPE: Final = b"\\u00"
_UNDERSCORES: Final = 8
_HTTPS = re.compile(r"https://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?#].*)?", re.DOTALL)
_LOCAL: Final = ("localhost", "local", "internal", "lan", "home", "arpa")


def check_media(body: bytes, members: dict[str, Raw], *, remote: bool) -> None:
    """`Refusal` 400 for a URL that an engine would fetch (`remote`: https to public addresses is allowed), for
    serialised tensors, and for an id under which an engine keeps media for other requests.
    """
    if not _may_name_media(body):
        return
    for name, raw in members.items():
        content = memoryview(raw)
        if name not in SCHEMAS and bytes(content[:1]) in (b"[", b"{"):
            _check(msgspec.json.decode(content), name, remote=remote)


def _may_name_media(body: bytes) -> bool:
    """Whether one of the names above may be in it, plain or spelled with escapes. Looking for single bytes is several
    times faster than for words, and most bodies have few underscores and no backslash.
    """
    if b"\\" in body and _ESCAPE in body:
        return True
    at = body.find(b"_")
    for _ in range(_UNDERSCORES):
        if at < 0:
            return False
        if body.startswith(_MARKS, at):
            return True
        at = body.find(b"_", at + 1)
    return any(mark in body for mark in _MARKS)


def _check(value: Any, param: str, *, remote: bool) -> None:
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, list):
            pending += each
        elif isinstance(each, dict):
            _check_object(each, param, remote=remote)
            pending += each.values()


def _check_object(value: dict[str, Any], param: str, *, remote: bool) -> None:
    tensors = TENSORS.intersection(value)
    if tensors or value.get("type") in TENSORS:
        raise invalid(f"'{min(tensors or TENSORS)}' is not accepted here; send the media itself.", param)
    named = URLS.intersection(value)
    if "uuid" in value and (named or value.get("type") in URLS):
        raise invalid("'uuid' is not accepted beside media; leave it out.", param)
    for name in named:
        for url in _strings(value[name]):
            if not (url[:5].lower() == "data:" or (remote and is_public_https(url))):
                allowed = "a data: URI or a public https URL" if remote else "a data: URI"
                raise invalid(f"'{name}' is not {allowed}; send the content itself.", param)


def _strings(value: Any) -> Iterator[str]:
    """The URLs of a member: it is one, or has one as `url`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, dict) and "url" in value:
        yield from _strings(value["url"])


def is_public_https(url: str) -> bool:
    """Whether it is an https URL whose host is not plainly a private one. A name is not resolved here: whoever lets
    engines fetch has to keep them from private networks.
    """
    found = _HTTPS.fullmatch(url)
    if found is None:
        return False
    host = found[1].strip("[]").rstrip(".").lower()
    try:
        return ip_address(host).is_global
    except ValueError:
        last = host.rpartition(".")[2]
        return "." in host and last not in _LOCAL and not last[:1].isdigit()
