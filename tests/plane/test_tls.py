"""TLS on a listener: versions, certificates that change under open connections."""

import socket
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import SERVICE, Connection, Gateway, chat, request, running
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


def served_name(port: int) -> str:
    with Connection(port, tls=client_context()) as connection:
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
