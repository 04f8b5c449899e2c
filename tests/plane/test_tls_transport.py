"""A TLS connection without sockets: what its peer cannot make it keep."""

import asyncio
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from appliance.gateway.plane.certificates import Certificates
from appliance.gateway.plane.connection import WRITE_HIGH
from appliance.gateway.plane.tls_transport import TlsTransport
from tests.plane.test_tls import client_context, write_certificate

if TYPE_CHECKING:
    from appliance.gateway.plane.connection import Connection
    from appliance.gateway.plane.context import Context

READ = 64 * 1024


class Kernel:
    """A plain transport whose peer reads only when `drain` is called."""

    def __init__(self) -> None:
        self.above: TlsTransport | None = None
        self.waiting = b""
        self._reads = True

    def write(self, data: bytes) -> None:
        self.waiting += data
        if len(self.waiting) > WRITE_HIGH and self.above is not None:
            self.above.pause_writing()

    def drain(self) -> bytes:
        waiting, self.waiting = self.waiting, b""
        if self.above is not None and len(waiting) > WRITE_HIGH:
            self.above.resume_writing()
        return waiting

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True

    def reads(self) -> bool:
        return self._reads

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (WRITE_HIGH, None)

    def get_extra_info(self, _: str, default: Any = None) -> Any:
        return default


class Above(asyncio.Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.deadline = 61.0
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data


class Client:
    """Of TLS 1.3, in memory; after the handshake it writes its records itself, as no library sends such a flood."""

    def __init__(self, tls: TlsTransport, kernel: Kernel, keys: Path) -> None:
        context = client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(keys)
        self._incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, outgoing)
        for _ in range(2):
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            deliver(tls, outgoing.read())
            self._incoming.write(kernel.drain())
        assert self._tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        (line,) = [each for each in keys.read_text().splitlines() if each.startswith("CLIENT_TRAFFIC_SECRET_0 ")]
        self._secret = bytes.fromhex(line.split()[2])
        self._sequence = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """RFC 8446, 5.2."""
        key, iv = (_expand(self._secret, label, length) for label, length in (("key", 32), ("iv", 12)))
        nonce = bytes(a ^ b for a, b in zip(iv, self._sequence.to_bytes(12, "big"), strict=True))
        self._sequence += 1
        head = struct.pack(">BHH", 23, 0x0303, len(content) + 17)
        return head + AESGCM(key).encrypt(nonce, content + bytes([kind]), head)

    def change_of_keys(self) -> bytes:
        """Which asks the peer to change its own (RFC 8446, 4.6.3 and 7.2)."""
        sent = self.record(22, b"\x18\0\0\x01\x01")
        self._secret, self._sequence = _expand(self._secret, "traffic upd", 48), 0
        return sent

    def take(self, data: bytes) -> bytes:
        self._incoming.write(data)
        return self._tls.read(READ)


def _expand(secret: bytes, label: str, length: int) -> bytes:
    name = b"tls13 " + label.encode()
    info = struct.pack(">HB", length, len(name)) + name + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


def deliver(tls: TlsTransport, data: bytes) -> None:
    """As the loop does: into the buffer that it is given, and then told."""
    for at in range(0, len(data), READ):
        piece = data[at : at + READ]
        tls.get_buffer(READ)[: len(piece)] = piece
        tls.buffer_updated(len(piece))


@pytest.fixture
def parties(tmp_path: Path) -> tuple[Client, TlsTransport, Kernel, Above]:
    context = cast("Context", SimpleNamespace(now=lambda: 1.0, metrics=SimpleNamespace()))
    certificates = Certificates(write_certificate(tmp_path / "tls", "localhost"), {})
    above, kernel = Above(), Kernel()
    kernel.above = TlsTransport(context, certificates.context, cast("Connection", above))
    kernel.above.connection_made(cast("asyncio.BaseTransport", kernel))
    return Client(kernel.above, kernel, tmp_path / "keys"), kernel.above, kernel, above


def test_peer_that_asks_for_keys_and_does_not_read_is_not_read(
    parties: tuple[Client, TlsTransport, Kernel, Above],
) -> None:
    client, tls, kernel, above = parties
    sent = 0
    while kernel.reads():
        flood = b"".join(client.change_of_keys() for _ in range(100))
        sent += len(flood)
        deliver(tls, flood)
        assert sent < 16 * WRITE_HIGH
    assert WRITE_HIGH < len(kernel.waiting) < 2 * WRITE_HIGH

    tls.pause_reading()  # as the connection above may, meanwhile
    tls.resume_reading()
    assert not kernel.reads()
    unread = kernel.drain()
    assert kernel.reads()
    deliver(tls, client.record(23, b"hello"))
    tls.write(b"answer")
    assert (above.got, client.take(unread + kernel.drain())) == (b"hello", b"answer")


def test_what_the_connection_above_does_not_want_is_not_read_when_the_peer_reads_again(
    parties: tuple[Client, TlsTransport, Kernel, Above],
) -> None:
    client, tls, kernel, _ = parties
    while kernel.reads():
        deliver(tls, b"".join(client.change_of_keys() for _ in range(100)))
    tls.pause_reading()
    kernel.drain()
    assert not kernel.reads()
    tls.resume_reading()
    assert kernel.reads()
