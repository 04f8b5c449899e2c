"""Before anything is measured: that each peer really answers, with the upstream's answer, and does what it claims.

A peer that fails here would be compared at work that it does not do: the run ends with what was missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx

from appliance.gateway.plane.paths import access_log_path
from bench.gateway.peers import ours
from bench.gateway.peers.configured import ENVOY_LOG
from bench.gateway.target import Target, chat_body
from bench.gateway.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Upstream
from tests.support.waiting import eventually

STREAM_TOKENS: Final = 5
_ANSWERED: Final = {(PROMPT_TOKENS, COMPLETION_TOKENS), (PROMPT_TOKENS, STREAM_TOKENS)}


class NotEqual(Exception):
    """A peer does not do the work that it is compared at."""


def verify(target: Target, upstream: Upstream, home: Path) -> dict[str, bool]:
    """What was seen, by feature. `NotEqual` if the peer does not answer as the upstream does."""
    before = upstream.stats().requests
    _check_answer(target)
    _check_stream(target)
    if target.tls_port is not None:
        _check_answer(target.over_tls())
    asked = upstream.stats().requests - before
    _require(asked == 2 + (target.tls_port is not None), target, f"{asked} requests reached the upstream")
    seen = {"answer": True, "stream": True}
    if target.features.key:
        seen["key"] = _refuses_a_wrong_key(target, upstream)
    if target.features.limits:
        seen["limits"] = _refuses_beyond_the_limit(target)
    if target.features.usage:
        seen["usage"] = _tells_usage(target, home)
    if target.features.log:
        seen["log"] = _logs_requests(target, home)
    return seen


def _ask(target: Target, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    return httpx.post(target.chat_url, json=body, headers=target.headers(key), verify=False, timeout=30)


def _check_answer(target: Target) -> None:
    answer = _ask(target, chat_body())
    _require(answer.status_code == 200, target, f"answered {answer.status_code}: {answer.text[:300]}")
    told = answer.json()
    counts = told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]
    _require(counts == (PROMPT_TOKENS, COMPLETION_TOKENS), target, f"changed the usage: {answer.text[:500]}")
    _require("quick brown fox" in told["choices"][0]["message"]["content"], target, f"changed the answer: {told}")


def _check_stream(target: Target) -> None:
    answer = _ask(target, chat_body(stream_tokens=STREAM_TOKENS))
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    _require(bool(events) and events[-1] == "[DONE]", target, f"a stream without its end: {answer.text[-300:]}")
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    _require(text == "".join(f" word{n}" for n in range(STREAM_TOKENS)), target, f"changed the stream: {text!r}")
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    _require(bool(told) and told[-1]["completion_tokens"] == STREAM_TOKENS, target, "no usage at the stream's end")


def _refuses_a_wrong_key(target: Target, upstream: Upstream) -> bool:
    """However it says so: LiteLLM without a database answers 500 where there is no key."""
    before = upstream.stats().requests
    statuses = [_ask(target, chat_body(), key).status_code for key in ("", "sk-bench-wrong")]
    return all(status >= 400 for status in statuses) and upstream.stats().requests == before


def _refuses_beyond_the_limit(target: Target) -> bool:
    statuses = [_ask(target, chat_body(), target.limited_key).status_code for _ in range(2)]
    return statuses == [200, 429]


def _tells_usage(target: Target, home: Path) -> bool:
    """That it has read the usage of the answer and of the stream, each in the way it keeps it."""
    found: set[tuple[int, int]] = set()

    def has_both() -> bool:
        found.update(_usage_of_ours(home) if target.name.startswith(ours.NAME) else _usage_of_envoy(home))
        return found >= _ANSWERED

    return eventually(has_both, 30.0, message=f"{target.name} tells its usage")


def _logs_requests(target: Target, home: Path) -> bool:
    """One line of JSON for each request, with its usage."""

    def has_both() -> bool:
        lines = _lines(access_log_path(home) if target.name.startswith(ours.NAME) else home / ENVOY_LOG)
        return {(line.get("prompt_tokens"), line.get("completion_tokens")) for line in lines} >= _ANSWERED

    return eventually(has_both, 30.0, message=f"{target.name} logs its requests")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines so far."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _usage_of_ours(home: Path) -> Iterable[tuple[int, int]]:
    return [(record.prompt_tokens, record.completion_tokens) for record in ours.records(home)]


def _usage_of_envoy(home: Path) -> Iterable[tuple[int, int]]:
    lines = _lines(home / ENVOY_LOG)
    return [(line["prompt_tokens"], line["completion_tokens"]) for line in lines if line["completion_tokens"]]


def _require(good: bool, target: Target, what: str) -> None:  # noqa: FBT001
    if not good:
        raise NotEqual(f"{target.name}: {what}")
