"""What a request and a streamed chunk cost in the worker's own code, without sockets, kernel or other processes.

    python -m bench.gateway.replay [--profile] [--opcodes] [--batches 40]

A worker's parts are put together in this process and fed what wrk and the upstream would send, from memory. The best
batch is told: on a busy machine everything else is an interruption. Useful to see what a change does; the benchmark
says what it is worth. `--profile` lists where the time goes (with the profiler's own, which favours built-in code),
`--opcodes` how many of the interpreter's instructions each function takes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from appliance.gateway.plane import paths, wire
from appliance.gateway.plane.client_protocol import ClientConnection
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.upstream import UpstreamConnection
from appliance.gateway.plane.worker import Worker
from bench.gateway.opcodes import table
from bench.gateway.peers.configured import KEY
from bench.gateway.peers.ours import shards
from bench.gateway.target import Features, Target, TlsPair, chat_body
from bench.gateway.upstream import Upstream

REQUESTS: Final = 500
CHUNKS: Final = 2000
_ANSWER: Final = msgspec.json.encode(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog, again."},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 24, "total_tokens": 36, "completion_tokens": 12, "prompt_tokens_details": None},
    }
)
_CHUNK: Final = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" word%d"},"logprobs":null,"finish_reason":null}],'
    b'"usage":{"prompt_tokens":24,"total_tokens":%d,"completion_tokens":%d}}\n\n'
)


class _Transport:
    """Takes what is written and never pushes back."""

    def __init__(self) -> None:
        self.written = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.written += 1
        self.last = data

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name == "peername" else default

    def close(self) -> None:
        pass

    abort = pause_reading = resume_reading = close


class Replay:
    def __init__(self, home: Path, loop: uvloop.Loop) -> None:
        paths.prepare(home)
        upstream = Upstream(home / "engine.sock", 1)
        wire.SnapshotWriter(wire.snapshot_directory(home)).publish(shards(upstream, TlsPair("", ""), range(1, 3), 1))
        worker = Worker(home, 0, loop, Log(process="replay"))
        worker._take_snapshot()  # noqa: SLF001 - a worker that does not run is fed by hand
        self._context = worker._context  # noqa: SLF001 - as above
        listener = self._context.tables.listeners["lsn_plain"]
        self._client_transport, self._engine_transport = _Transport(), _Transport()
        self._client = ClientConnection(self._context, getattr(listener, "listener", listener))
        self._client.connection_made(self._client_transport)  # type: ignore[arg-type] # what is used of it is there
        (replica,) = self._context.backends
        self._engine = UpstreamConnection(replica)
        self._engine.connection_made(self._engine_transport)  # type: ignore[arg-type] # as above
        self._engine.idle_since = self._context.now()
        replica.idle.append(self._engine)
        target = Target("replay", 1, 0, Features(), KEY)
        self._json = target.request(msgspec.json.encode(chat_body()))
        self._stream = target.request(msgspec.json.encode(chat_body(stream_tokens=CHUNKS)))
        self._answer = (
            b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)
        )

    def requests(self) -> int:
        for _ in range(REQUESTS):
            self._client.data_received(self._json)
            self._engine.data_received(self._answer)
        self._write_down()
        self._check(b"quick brown fox")
        return REQUESTS

    def chunks(self) -> int:
        self._client.data_received(self._stream)
        engine = self._engine
        engine.data_received(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        framed = [_framed(_CHUNK % (n % 10, 24 + n, n)) for n in range(1, CHUNKS + 1)]
        began = time.process_time_ns()
        for piece in framed:
            engine.data_received(piece)
        self.took = time.process_time_ns() - began
        engine.data_received(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._write_down()
        self._check(b"0\r\n\r\n")
        return CHUNKS

    def _write_down(self) -> None:
        """As a worker does at each of its ticks, but without a thread for the log."""
        self._context.books.write_up()
        self._context.spool.flush()
        self._context.access_log.close()

    def _check(self, expected: bytes) -> None:
        if expected not in self._client_transport.last:
            raise AssertionError(f"not answered: {self._client_transport.last[:500]!r}")


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--opcodes", action="store_true")
    options = parser.parse_args(arguments)
    loop = uvloop.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="replay-") as home:
        loop.run_until_complete(_run(Path(home), loop, options))
    loop.close()
    return 0


async def _run(home: Path, loop: uvloop.Loop, options: argparse.Namespace) -> None:
    replay = Replay(home, loop)
    replay.requests()
    replay.chunks()
    print(f"request {_best(replay.requests, options.batches):8.2f} us")
    print(f"chunk   {_best(replay.chunks, options.batches, lambda: replay.took):8.2f} us")
    if options.opcodes:
        print(table(replay.requests))
    if options.profile:
        for step in (replay.requests, replay.chunks):
            profile = cProfile.Profile()
            profile.runcall(step)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def _best(step: Callable[[], int], batches: int, took: Callable[[], int] | None = None) -> float:
    """Microseconds of CPU time per item in the fastest batch."""
    best = float("inf")
    for _ in range(batches):
        began = time.process_time_ns()
        count = step()
        spent = took() if took is not None else time.process_time_ns() - began
        best = min(best, spent / count / 1000)
    return best


if __name__ == "__main__":
    sys.exit(main())
