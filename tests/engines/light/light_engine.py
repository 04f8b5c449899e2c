"""A light engine: the OpenAI routes on a unix socket, streaming, with exact usage, and no model behind it.

Of the last message it repeats the words, one word a token, at most `max_tokens`. Standard library alone, so that it
starts in the time of an interpreter. `--misbehave` makes it fail in a chosen way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.prompt_tokens = self.generation_tokens = self.requests = 0

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while (head := await _read_head(reader)) is not None:
                method, path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(writer, method, path, body)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes) -> None:
        match method, path:
            case "GET", "/health":
                _send(writer, 200, b"{}")
            case "GET", "/metrics":
                _send(writer, 200, self._metrics().encode(), "text/plain")
            case "GET", "/v1/models":
                _send(writer, 200, json.dumps({"object": "list", "data": [{"id": self.options.served_model_name}]}))
            case "POST", "/v1/completions" | "/v1/chat/completions":
                await self._complete(writer, json.loads(body), is_chat=path.endswith("chat/completions"))
            case _:
                _send(writer, 404, json.dumps({"error": {"message": "no such route", "type": "not_found"}}))
        await writer.drain()

    async def _complete(self, writer: asyncio.StreamWriter, request: dict[str, Any], *, is_chat: bool) -> None:
        if self.options.misbehave == "silent":
            await asyncio.sleep(3600)
        if not self.requests:
            _tell("asked")
        text = request["messages"][-1]["content"] if is_chat else request["prompt"]
        prompt = text.split() or ["?"]
        limit = request.get("max_tokens") or request.get("max_completion_tokens") or 16
        words = [prompt[index % len(prompt)] for index in range(limit)]
        self.prompt_tokens += len(prompt)
        self.requests += 1
        if request.get("stream"):
            await self._stream(writer, request, prompt, words, is_chat=is_chat)
            return
        for _ in words:
            await self._token()
        content = " ".join(words)
        choice = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": content}} if is_chat else {"text": content}
        _send(writer, 200, json.dumps(self._object([choice], is_chat=is_chat) | {"usage": _usage(prompt, len(words))}))
        if self.requests == 1:
            _tell("answered")

    async def _stream(
        self,
        writer: asyncio.StreamWriter,
        request: dict[str, Any],
        prompt: list[str],
        words: list[str],
        *,
        is_chat: bool,
    ) -> None:
        options = request.get("stream_options") or {}
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, word in enumerate(words, 1):
            await self._token()
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if number == len(words) else None}
            choice |= {"delta": {"content": f"{word} "}} if is_chat else {"text": f"{word} "}
            event = self._object([choice], is_chat=is_chat)
            if options.get("continuous_usage_stats"):
                event["usage"] = _usage(prompt, number)
            _chunk(writer, event)
            await writer.drain()
        if options.get("include_usage"):
            _chunk(writer, self._object([], is_chat=is_chat) | {"usage": _usage(prompt, len(words))})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _token(self) -> None:
        if self.options.pause_ms:
            await asyncio.sleep(self.options.pause_ms / 1000)
        self.generation_tokens += 1

    def _object(self, choices: list[Any], *, is_chat: bool) -> dict[str, Any]:
        kind = "chat.completion" if is_chat else "text_completion"
        name = self.options.served_model_name
        return {"id": f"cmpl-{self.requests}", "object": kind, "created": int(time.time()), "model": name} | {
            "choices": choices
        }

    def _metrics(self) -> str:
        return (
            f"light:prompt_tokens_total {self.prompt_tokens}\n"
            f"light:generation_tokens_total {self.generation_tokens}\n"
            f"light:requests_total {self.requests}\n"
        )


def _tell(what: str) -> None:
    """When it happened (Unix seconds), as a line of the log, for benchmarks."""
    print(json.dumps({what: time.time()}), flush=True)  # noqa: T201 - an engine's log is its output


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    line = (await reader.readline()).decode("latin-1")
    if not line:
        return None
    method, path, _ = line.split(" ", 2)
    headers = {}
    while (field := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    return method, path, headers


def _send(writer: asyncio.StreamWriter, status: int, body: bytes | str, kind: str = "application/json") -> None:
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)


def _chunk(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    data = f"data: {json.dumps(event)}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _usage(prompt: list[str], completion: int) -> dict[str, int]:
    count = len(prompt)
    return {"prompt_tokens": count, "completion_tokens": completion, "total_tokens": count + completion}


async def main(options: argparse.Namespace) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(options.uds)  # noqa: PTH108 - pathlib takes a good part of such an engine's start
    server = await asyncio.start_unix_server(Engine(options).serve_client, options.uds)
    _tell("listening")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if options.misbehave == "crash-later":
        asyncio.get_running_loop().call_later(1, os._exit, 7)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--misbehave", choices=["exit", "hang", "silent", "crash-later", "eat"])
    parser.add_argument("--pause-ms", type=float, default=0)
    parsed = parser.parse_args()
    if parsed.misbehave == "exit":
        sys.exit("this engine was told to fail")
    if parsed.misbehave == "eat":
        eaten = [bytearray(1 << 20) for _ in range(4096)]
        sys.exit(f"{len(eaten)} MiB were not too much")
    if parsed.misbehave == "hang":
        signal.pause()
    asyncio.run(main(parsed))
