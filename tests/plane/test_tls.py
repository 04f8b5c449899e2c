"""TLS on a listener: versions, certificates that change under open connections."""

import socket
import ssl
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Script, chunk_event, completion, hold
from tests.plane.harness import SERVICE, Connection, Gateway, chat, request, running
from tests.plane.test_streaming import resident_kib
from tests.support.ports import free_port
from tests.support.waiting import eventually


def write_certificate(folder: Path, name: str) -> wire.TlsFiles:
    """A self-signed one for localhost; its common name is `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    files = wire.TlsFiles(str(folder / "server.pem"), str(folder / "server.key"))
    contents = (
        (files.key, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, _NONE)),
        (files.certificate, certificate.public_bytes(serialization.Encoding.PEM)),
    )
    for path, content in contents:
        unfinished = Path(f"{path}.new")
        unfinished.write_bytes(content)
        unfinished.replace(path)
    return files


def answers_with(body: object) -> Script:
    async def script(_: EngineRequest, answer: Answer) -> None:
        await answer.json(body)

    return script


_NONE = serialization.NoEncryption()


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def old_context() -> ssl.SSLContext:
    """One that speaks nothing newer than TLS 1.1."""
    context = client_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def served_name(port: int, asked: str = "localhost") -> str:
    with Connection(port, tls=client_context(), server_name=asked) as connection:
        assert isinstance(connection.socket, ssl.SSLSocket)
        encoded = connection.socket.getpeercert(binary_form=True)
    assert encoded is not None
    (attribute,) = x509.load_der_x509_certificate(encoded).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


@pytest.fixture
def tls_port(own_gateway: Gateway, tmp_path: Path) -> int:
    port = free_port()
    files = write_certificate(tmp_path / "tls", "first")
    own_gateway.listeners.append(wire.Listener("lsn_tls", "gwy_1", "127.0.0.1", port, SERVICE, files))
    return port


def test_requests_over_tls(own_gateway: Gateway, own_engine: FakeEngine, tls_port: int) -> None:
    with running(own_gateway):
        with Connection(tls_port, tls=client_context()) as connection:
            assert isinstance(connection.socket, ssl.SSLSocket)
            assert (connection.socket.version(), connection.socket.selected_alpn_protocol()) == ("TLSv1.3", None)
            for _ in range(3):
                connection.send(request(chat()))
                assert connection.answer().status == 200
            connection.send(request(chat(stream=True)))
            assert connection.answer().complete
            connection.send(request(chat(), key="sk-wrong") + b"\x00nonsense\n")
            assert [connection.answer().status for _ in range(2)] == [401, 400]
        with pytest.raises(ssl.SSLError):
            Connection(tls_port, tls=old_context())
        with socket.create_connection(("127.0.0.1", tls_port), 5) as plain:
            plain.sendall(request(chat()))
            assert b"HTTP" not in plain.recv(100)
        assert len(own_engine.requests) == 4


def test_certificate_changes_without_losing_a_connection(own_gateway: Gateway, tmp_path: Path, tls_port: int) -> None:
    with running(own_gateway) as gateway, Connection(tls_port, tls=client_context()) as connection:
        assert served_name(tls_port) == "first"
        write_certificate(tmp_path / "tls", "second")
        eventually(lambda: served_name(tls_port) == "second")
        connection.send(request(chat()))
        assert connection.answer().status == 200

        (tmp_path / "tls" / "server.key").write_text("damaged")
        eventually(lambda: "certificate.rejected" in gateway.log())
        assert served_name(tls_port) == "second"


def test_certificate_is_chosen_by_the_name_that_is_asked_for(own_gateway: Gateway, tmp_path: Path) -> None:
    port = free_port()
    default, other, wild = (write_certificate(tmp_path / name, name) for name in ("default", "other", "wild"))
    by_name = {"Other.example": other, "*.wild.example": wild}
    own_gateway.listeners.append(
        wire.Listener("lsn_tls", "gwy_1", "127.0.0.1", port, SERVICE, default, tls_by_name=by_name)
    )
    with running(own_gateway):
        asked = ("other.example", "a.wild.example", "OTHER.EXAMPLE", "a.b.wild.example", "wild.example", "localhost")
        assert [served_name(port, name) for name in asked] == [
            "other",
            "wild",
            "other",
            "default",
            "default",
            "default",
        ]

        write_certificate(tmp_path / "other", "renewed")
        eventually(lambda: served_name(port, "other.example") == "renewed")


def test_listener_without_its_certificate_serves_once_it_is_there(own_gateway: Gateway, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "late"
    files = wire.TlsFiles(str(folder / "server.pem"), str(folder / "server.key"))
    own_gateway.listeners.append(wire.Listener("lsn_tls", "gwy_1", "127.0.0.1", port, SERVICE, files))
    own_gateway.publish()
    own_gateway.start()
    eventually(lambda: "listener.failed" in own_gateway.log())

    write_certificate(folder, "late")

    eventually(lambda: served_name(port) == "late", ignoring=(OSError,))
    assert own_gateway.log().count("listener.failed") == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_also_after_the_certificate_changed(
    own_gateway: Gateway, tmp_path: Path, tls_port: int, version: ssl.TLSVersion
) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    with running(own_gateway):
        with Connection(tls_port, tls=context) as connection:
            connection.send(request(chat()))
            assert connection.answer().status == 200
            session = connection.tls.session
            assert not connection.tls.session_reused
        with Connection(tls_port, tls=context, session=session) as connection:
            assert connection.tls.session_reused
            connection.send(request(chat()))
            assert connection.answer().status == 200
        write_certificate(tmp_path / "tls", "second")
        eventually(lambda: served_name(tls_port) == "second")
        with Connection(tls_port, tls=context, session=session) as connection:
            assert connection.tls.session_reused


def test_large_requests_and_answers_over_tls(own_gateway: Gateway, own_engine: FakeEngine, tls_port: int) -> None:
    text = "x" * 3_000_000
    own_engine.script = answers_with(completion(text))
    with running(own_gateway), Connection(tls_port, tls=client_context()) as connection:
        for _ in range(2):
            connection.send(request(chat(messages=[{"role": "user", "content": text}])))
            assert connection.answer().json["choices"][0]["message"]["content"] == text
        assert own_engine.requests[1].json["messages"][0]["content"] == text


def test_answer_to_a_refused_body_is_read_before_the_connection_ends(own_gateway: Gateway, tls_port: int) -> None:
    """The client sends on for a while: what it sends is dropped, and its answer not destroyed by a reset."""
    own_gateway.listeners[-1] = msgspec.structs.replace(own_gateway.listeners[-1], max_body_bytes=1000)
    with running(own_gateway), Connection(tls_port, tls=client_context()) as connection:
        connection.send(request(b"x" * 500_000))
        answer = connection.answer()
        assert (answer.status, answer.complete, answer.error["code"]) == (413, True, "request_too_large")
        assert connection.at_end()


def test_handshake_that_stalls_or_is_none_is_ended(own_gateway: Gateway, tls_port: int) -> None:
    with running(own_gateway):
        with socket.create_connection(("127.0.0.1", tls_port), 20) as silent, client_half_way(tls_port) as half:
            assert half.recv(100_000) != b""  # the server's own part
            assert silent.recv(1) == b""
            half.settimeout(20)
            assert half.recv(1) == b""
        with Connection(tls_port, tls=client_context()) as connection:
            connection.send(request(chat()))
            assert connection.answer().status == 200


def client_half_way(port: int) -> socket.socket:
    """A client that says hello and nothing more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    connection = socket.create_connection(("127.0.0.1", port), 5)
    connection.sendall(outgoing.read())
    return connection


def test_end_of_tls_is_told_and_heard(own_gateway: Gateway, own_engine: FakeEngine, tls_port: int) -> None:
    own_engine.script = hold
    with running(own_gateway):
        with Connection(tls_port, tls=client_context()) as connection:
            connection.tls.suppress_ragged_eofs = False  # type: ignore[attr-defined] # typeshed lacks it
            connection.send(request(chat(), fields={"Connection": "close"}, path="/v1/models", method="GET"))
            assert connection.answer().status == 200
            assert connection.tls.recv(1) == b""  # with close_notify: no SSLEOFError
        with Connection(tls_port, tls=client_context()) as connection:
            connection.send(request(chat()))
            eventually(lambda: own_engine.requests)
            with suppress(OSError):  # the gateway does not wait with its own close_notify
                connection.tls.unwrap()
            assert own_engine.requests[0].gone.wait(2)


def test_slow_reader_over_tls_slows_the_engine_and_not_the_memory(
    own_gateway: Gateway, own_engine: FakeEngine, tls_port: int
) -> None:
    written = 0
    piece = chunk_event("x" * 60_000, 9, 1)

    async def flood(seen: EngineRequest, answer: Answer) -> None:
        nonlocal written
        answer.writer.transport.set_write_buffer_limits(high=1)
        await answer.stream_head()
        while not seen.gone.is_set() and written < 120_000_000:
            await answer.chunk(piece)
            written += len(piece)

    own_engine.script = flood
    last = -1

    def stands_still() -> bool:
        nonlocal last
        still, last = last == written, written
        return still

    with running(own_gateway), Connection(tls_port, tls=client_context()) as connection:
        connection.send(request(chat(stream=True)))
        connection.read_until(b"xxx")
        eventually(stands_still, message="the engine is held back")
        assert written < 30_000_000
        assert resident_kib(own_gateway.worker_pid()) < 70 * 1024
        received = 0
        while received < 30_000_000:  # and goes on when it is read again
            received += len(connection.receive())
