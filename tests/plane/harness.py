"""A gateway of real processes in a folder of its own, and what a test says to it and reads from it."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from appliance.gateway.plane import wire
from tests.support.waiting import eventually

KEY = "sk-test-0123456789"
TENANT = "ten_1"
SERVICE = "svc_1"
CHAT = "POST /v1/chat/completions"
ROUTES = [CHAT, "POST /v1/completions", "POST /v1/embeddings", "GET /v1/engine-info"]


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def key_entry(**changes: Any) -> wire.KeyEntry:
    return msgspec.structs.replace(wire.KeyEntry("key_1", TENANT, "test"), **changes)


def service(engine: Path, **changes: Any) -> wire.ServiceShard:
    replica = wire.Replica("rpl_1", str(engine), os.getuid())
    plain = wire.ServiceShard(
        id=SERVICE,
        tenant_id=TENANT,
        tenant_name="acme",
        name="chat",
        served_model="m",
        deployments=[wire.Deployment("dep_1", "main", 100, [replica])],
        routes=ROUTES,
        usage_in_every_chunk=True,
    )
    return msgspec.structs.replace(plain, **changes)


@dataclass
class Response:
    status: int
    fields: dict[str, str]
    body: bytes
    complete: bool
    """Whether the framing says that the body is whole."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Connection:
    """A client's connection that reads one answer after the other."""

    def __init__(
        self,
        port: int,
        *,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        server_name: str = "localhost",
        host: str = "127.0.0.1",
    ) -> None:
        plain = socket.create_connection((host, port), timeout)
        self.socket = tls.wrap_socket(plain, server_hostname=server_name, session=session) if tls else plain
        self._buffer = b""

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """Some bytes; b"" at the end (a reset is an end)."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def at_end(self) -> bool:
        data = self.receive()
        self._buffer = data + self._buffer
        return not data

    def read_until(self, marker: bytes) -> bytes:
        data = b""
        while marker not in data:
            piece = self.receive()
            if not piece:
                raise EOFError(f"the connection ended before {marker!r}: {data[-200:]!r}")
            data += piece
        return data

    def answer(self, *, head_only: bool = False) -> Response:
        data = self.read_until(b"\r\n\r\n")
        head, _, self._buffer = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
        status = int(line.split(" ")[1])
        if status == 100:
            return Response(status, fields, b"", complete=True)
        body, complete = b"", True
        if head_only:
            pass
        elif fields.get("transfer-encoding") == "chunked":
            body, complete = self._chunked()
        elif "content-length" in fields:
            body, complete = self._exactly(int(fields["content-length"]))
        else:
            while piece := self.receive():
                body += piece
        return Response(status, fields, body, complete)

    def _exactly(self, count: int) -> tuple[bytes, bool]:
        data = b""
        while len(data) < count and (piece := self.receive()):
            data += piece
        data, self._buffer = data[:count], data[count:] + self._buffer
        return data, len(data) == count

    def _line(self) -> bytes | None:
        data = b""
        while b"\r\n" not in data:
            piece = self.receive()
            if not piece:
                return None
            data += piece
        line, _, rest = data.partition(b"\r\n")
        self._buffer = rest + self._buffer
        return line

    def _chunked(self) -> tuple[bytes, bool]:
        body = b""
        while (line := self._line()) is not None:
            size = int(line, 16)
            payload, whole = self._exactly(size)
            body += payload
            if not whole or self._line() is None:
                return body, False
            if size == 0:
                return body, True
        return body, False


def request(
    body: Any = None,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    key: str | None = KEY,
    fields: dict[str, str] | None = None,
) -> bytes:
    encoded = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines.append(f"Content-Length: {len(encoded)}")
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + encoded


def chat(**members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}


class Gateway:
    """Its shards are plain members: change them and `publish`."""

    def __init__(self, home: Path, port: int, engine: Path, *, workers: int = 1, grace_s: float = 5.0) -> None:
        self.home = home
        self.port = port
        self.workers = workers
        self.grace_s = grace_s
        self.listeners = [wire.Listener("lsn_1", "gwy_1", "127.0.0.1", port, SERVICE)]
        self.services = {SERVICE: service(engine)}
        self.keys = {sha256(KEY): key_entry()}
        self.tenants = {TENANT: wire.TenantEntry("acme")}
        self.settings = wire.NodeSettings()
        self.version = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._writer = wire.SnapshotWriter(wire.snapshot_directory(home))
        self._records: dict[str, wire.UsageRecord] = {}

    def publish(self, *, wait: bool = True) -> int:
        shards: dict[str, msgspec.Struct] = {
            wire.LISTENERS_SHARD: wire.ListenersShard(self.listeners, self.workers, self.settings),
            wire.TENANTS_SHARD: wire.TenantsShard(self.tenants),
        }
        buckets: dict[str, dict[str, wire.KeyEntry]] = {f"keys-{n:02d}": {} for n in range(wire.KEY_BUCKETS)}
        for hashed, entry in self.keys.items():
            buckets[wire.key_shard(hashed)][hashed] = entry
        shards |= {shard_id: wire.KeysShard(keys) for shard_id, keys in buckets.items()}
        shards |= {wire.service_shard(each.id): each for each in self.services.values()}
        self.version = self._writer.publish(shards)
        if wait and self.process is not None:
            self.await_applied()
        return self.version

    # Processes

    def start(self) -> None:
        log = (self.home / "gateway.log").open("ab")
        command = [sys.executable, "-m", "appliance.gateway.plane.supervisor", "--home", str(self.home)]
        self.process = subprocess.Popen([*command, "--grace", str(self.grace_s)], stderr=log, stdin=subprocess.DEVNULL)
        log.close()

    def await_serving(self) -> None:
        eventually(self.is_serving, message="the gateway serves")

    def is_serving(self) -> bool:
        report = self.report()
        return (
            report is not None
            and self.process is not None
            and report.supervisor_pid == self.process.pid
            and all(listener.bound for listener in report.listeners)
            and len(report.listeners) == len(self.listeners)
            and self.applied() == [self.version] * self.workers
            and self._all_workers_accept()
            and all(self._accepts(listener) for listener in self.listeners if listener.tls is None)
        )

    def _all_workers_accept(self) -> bool:
        """One that has not got its sockets so far would never get them from a supervisor that a test kills next."""
        lines = [line for line in self.log().splitlines() if '"listener.accepting"' in line and line.endswith("}")]
        accepting = {(line["pid"], line["listener"]) for line in map(json.loads, lines)}
        return all(
            (status.pid, listener.id) in accepting
            for status in self.statuses()
            for listener in self.listeners
            if listener.tls is None
        )

    @staticmethod
    def _accepts(listener: wire.Listener) -> bool:
        with suppress(OSError), socket.create_connection((listener.host, listener.port), 1) as connection:
            connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
        return False

    def await_applied(self) -> None:
        eventually(lambda: self.applied() == [self.version] * self.workers, message=f"version {self.version} applied")

    def applied(self) -> list[int]:
        return [status.applied_version for status in self.statuses()]

    def statuses(self) -> list[wire.WorkerStatus]:
        found = []
        for index in range(self.workers):
            with suppress(FileNotFoundError):
                found.append(wire.read_status(wire.status_path(self.home, index)))
        return found

    def report(self) -> wire.ListenersReport | None:
        try:
            return msgspec.json.decode(wire.listeners_report_path(self.home).read_bytes(), type=wire.ListenersReport)
        except FileNotFoundError:
            return None

    def worker_pid(self, index: int = 0) -> int:
        return int(wire.pid_path(self.home, index).read_text())

    def stop(self, timeout: float = 20.0) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self.process = None
        return code

    def kill_supervisor(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        with suppress(FileNotFoundError):
            return (self.home / "gateway.log").read_text(errors="replace")
        return ""

    # Talking

    def connect(self, timeout: float = 10.0) -> Connection:
        return Connection(self.port, timeout=timeout)

    def ask(self, data: bytes) -> Response:
        with self.connect() as connection:
            connection.send(data)
            return connection.answer()

    # Usage

    def records(self) -> dict[str, wire.UsageRecord]:
        """All records so far by id, read as the control plane reads them. A record that came twice must be equal."""
        for path in wire.sealed_segments(self.home / "gateway" / "spool"):
            for record, _ in wire.read_frames(path):
                known = self._records.setdefault(record.record_id, record)
                assert known == record, "two records with one id"
            path.unlink()
        return self._records

    def record(self, request_id: str) -> wire.UsageRecord:
        def found() -> list[wire.UsageRecord]:
            return [record for record in self.records().values() if record.request_id == request_id]

        (record,) = eventually(found, message=f"usage of {request_id}")
        return record


@contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    gateway.publish()
    gateway.start()
    try:
        gateway.await_serving()
        yield gateway
    finally:
        if gateway.process is not None:
            gateway.stop()
        assert "worker.unexpected" not in gateway.log()
