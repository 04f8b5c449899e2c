"""One answer of a stream: what an engine would have said at once, from the chunks of an event stream.

Chat and legacy completions: texts are joined, tool calls put together by their index, the last finish reason and the
last usage kept. Members of a chunk that are not told of here are not kept; a stream in another shape stays text.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from appliance.gateway.plane.sse import EventSplitter, EventTooLarge, event_data

_DONE: Final = b"[DONE]"
_JOINED: Final = ("content", "reasoning_content", "reasoning", "refusal")
_decode = msgspec.json.Decoder().decode


def reassembled(stream: bytes) -> dict[str, Any] | None:
    """The answer, with what of it has come; None if no chunk is understood."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in _chunks(stream):
        for name in ("id", "created", "model", "system_fingerprint", "usage", "error"):
            if chunk.get(name) is not None:
                answer[name] = chunk[name]
        if isinstance(kind := chunk.get("object"), str):
            answer["object"] = kind.removesuffix(".chunk")
        for part in _list(chunk.get("choices")):
            if isinstance(part, dict) and isinstance(index := part.get("index", 0), int):
                _add(choices.setdefault(index, {"index": index}), part)
    if not answer and not choices:
        return None
    answer["choices"] = [_finished(choices[index]) for index in sorted(choices)]
    return answer


def _chunks(stream: bytes) -> list[dict[str, Any]]:
    splitter = EventSplitter()
    found = []
    try:
        events = list(splitter.feed(stream))
    except EventTooLarge:
        return []
    for event in events:
        data = event_data(event)
        if data is None or data == _DONE:
            continue
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(chunk, dict):
            found.append(chunk)
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]
    if isinstance(text := part.get("text"), str):
        choice.setdefault("text", []).append(text)
    if not isinstance(delta := part.get("delta"), dict):
        return
    message = choice.setdefault("message", {})
    if isinstance(role := delta.get("role"), str):
        message["role"] = role
    for name in _JOINED:
        if isinstance(text := delta.get(name), str):
            message.setdefault(name, []).append(text)
    for call in _list(delta.get("tool_calls")):
        if isinstance(call, dict) and isinstance(index := call.get("index", 0), int):
            _add_call(message.setdefault("tool_calls", {}).setdefault(index, {}), call)


def _add_call(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name in ("id", "type"):
        if isinstance(text := part.get(name), str):
            whole[name] = text
    function = part.get("function")
    if isinstance(function, dict):
        named = whole.setdefault("function", {"name": "", "arguments": []})
        if isinstance(text := function.get("name"), str):
            named["name"] += text
        if isinstance(text := function.get("arguments"), str):
            named["arguments"].append(text)


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    """Lists of pieces become texts."""
    if "text" in choice:
        choice["text"] = "".join(choice["text"])
    message = choice.get("message")
    if message is not None:
        for name in _JOINED:
            if name in message:
                message[name] = "".join(message[name])
        if "tool_calls" in message:
            calls = [message["tool_calls"][index] for index in sorted(message["tool_calls"])]
            for call in calls:
                if "function" in call:
                    call["function"]["arguments"] = "".join(call["function"]["arguments"])
            message["tool_calls"] = calls
    return choice
