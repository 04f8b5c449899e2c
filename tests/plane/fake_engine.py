"""A scripted engine on a unix socket: it records each request and answers as a test tells it."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Gone:
    """That the gateway has closed the connection: for the test's thread and for the engine's coroutines."""

    def __init__(self) -> None:
        self._threads = threading.Event()
        self._coroutines = asyncio.Event()

    def set(self) -> None:
        self._threads.set()
        self._coroutines.set()

    def is_set(self) -> bool:
        return self._threads.is_set()

    def wait(self, timeout: float) -> bool:
        return self._threads.wait(timeout)

    async def __call__(self) -> None:
        await self._coroutines.wait()


@dataclass
class EngineRequest:
    line: str
    fields: list[tuple[str, str]]
    body: bytes
    gone: Gone = field(default_factory=Gone)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name), None)


class Answer:
    """Writes one answer, as coarsely or finely as wanted."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, body: Any, status: int = 200) -> None:
        encoded = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        await self.raw(
            b"HTTP/1.1 %d X\r\nserver: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(encoded), encoded)
        )

    async def stream_head(self) -> None:
        await self.raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[EngineRequest, Answer], Awaitable[None]]


def chunk_event(text: str, prompt: int, completion: int, *, usage: bool = True, index: int = 0) -> bytes:
    """An event as vLLM writes it."""
    chunk: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
    }
    if usage:
        chunk["usage"] = usage_of(prompt, completion)
    return event(chunk)


def final_event(prompt: int, completion: int) -> bytes:
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [],
            "usage": usage_of(prompt, completion),
        }
    )


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def completion(text: str = "Hello.", prompt: int = 9, tokens: int = 12) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": usage_of(prompt, tokens),
    }


async def answer_chat(request: EngineRequest, answer: Answer) -> None:
    """What a healthy engine does: streams if asked to, in three chunks."""
    if not request.body or not request.json.get("stream"):
        await answer.json(completion())
        return
    await answer.stream_head()
    for number, text in enumerate(("Hel", "lo", "."), start=1):
        await answer.chunk(chunk_event(text, 9, number))
    await answer.chunk(final_event(9, 3))
    await answer.chunk(DONE)
    await answer.end()


async def hold(request: EngineRequest, _: Answer) -> None:
    """Answer nothing until the gateway leaves."""
    await request.gone()


class Gate:
    """A stream of one chunk that ends when the test opens the gate."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = asyncio.Event()

    def open(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._opened.set)

    async def __call__(self, request: EngineRequest, answer: Answer) -> None:
        self._loop = asyncio.get_running_loop()
        await answer.stream_head()
        await answer.chunk(chunk_event("first", 9, 1))
        waits = {asyncio.ensure_future(self._opened.wait()), asyncio.ensure_future(request.gone())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not request.gone.is_set():
            await answer.chunk(final_event(9, 1))
            await answer.chunk(DONE)
            await answer.end()


class FakeEngine:
    """Runs in a thread of its own. `script` may be changed at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.script: Script = answer_chat
        self.requests: list[EngineRequest] = []
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"engine-{path.name}", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    def reset(self) -> None:
        self.script = answer_chat
        self.requests.clear()

    async def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=64 * 1024 * 1024)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _close(self) -> None:
        listening = self._server.sockets if self._server is not None else ()
        for each in listening:  # a server that is closed loses the connections that it is just accepting
            self._loop.remove_reader(each.fileno())
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in list(self._writers):
                writer.transport.abort()
            _, stuck = await asyncio.wait(tasks, timeout=2)  # what waits for the gateway to leave ends by itself
            for task in stuck:
                task.cancel()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await self._read(reader)) is not None:
                self.requests.append(request)
                watch = asyncio.ensure_future(self._watch(reader, request))
                with contextlib.suppress(ConnectionError):
                    await self.script(request, Answer(writer))
                if request.gone.is_set() or writer.transport.is_closing():
                    break
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    @staticmethod
    async def _watch(reader: asyncio.StreamReader, request: EngineRequest) -> None:
        """Nothing follows a request before its answer, so whatever is read is the gateway's leaving."""
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        request.gone.set()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> EngineRequest | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        fields = [(name, value.strip()) for name, _, value in (entry.partition(":") for entry in lines)]
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
        return EngineRequest(line, fields, await reader.readexactly(length))


@contextlib.contextmanager
def fake_engine(path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(path)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
