"""A certificate authority of the appliance's own, made at the first start, and the server certificate it signs.

An organisation that has a PKI replaces `secrets/server.{pem,key}`; until then the fingerprint of `ca.pem` is
printed at each start so that a person can compare it. P-256, SHA-256; the CA lives ten years, the server
certificate 397 days (the longest that browsers accept) and is renewed when less than 30 days are left or a name is
missing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.kernel.clock import Clock
from appliance.kernel.errors import Misconfigured
from appliance.kernel.files import write_atomic, write_secret

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)


class ServerTls(NamedTuple):
    ca: Path
    certificate: Path
    key: Path
    fingerprint: str
    """SHA-256 of the CA's certificate, as `openssl x509 -fingerprint -sha256` prints it."""


def server_files(home: Path) -> tuple[Path, Path]:
    """The server certificate and its key below `home`."""
    return home / "secrets" / "server.pem", home / "secrets" / "server.key"


def ensure(home: Path, hostnames: Sequence[str], clock: Clock) -> ServerTls:
    """Make what is missing or about to expire below `home`; idempotent."""
    secrets = home / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_path, ca_key_path = home / "ca.pem", secrets / "ca.key"
    certificate_path, key_path = server_files(home)
    now, names = clock.now(), _names(hostnames)
    if not (ca_path.exists() and ca_key_path.exists()):
        _make_ca(ca_path, ca_key_path, now)
    ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
    if not (certificate_path.exists() and key_path.exists()) or _is_due(certificate_path, names, now):
        _make_server(ca, _load_key(ca_key_path), certificate_path, key_path, names, now)
    digest = ca.fingerprint(hashes.SHA256()).hex().upper()
    fingerprint = ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
    return ServerTls(ca_path, certificate_path, key_path, fingerprint)


def _names(hostnames: Iterable[str]) -> list[str]:
    return sorted({"localhost", "127.0.0.1", "::1", socket.gethostname(), *hostnames})


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_due(path: Path, names: Sequence[str], now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.subject != _subject("AI compute appliance"):
        return False  # the organisation's own certificate: never replaced by ours
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    missing = {_general(name) for name in names} - set(present)
    return bool(missing) or certificate.not_valid_after_utc - now < RENEW_BEFORE


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: str, issuer: x509.Name, now: datetime, lifetime: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(subject))
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + lifetime)
    )


def _make_ca(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = "AI compute appliance CA"
    certificate = (
        _builder(name, _subject(name), now, CA_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_secret(key_path, _pem(key))
    write_atomic(path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    path: Path,
    key_path: Path,
    names: Sequence[str],
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("AI compute appliance", ca.subject, now, SERVER_LIFETIME)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_secret(key_path, _pem(key))
    write_atomic(path, certificate.public_bytes(serialization.Encoding.PEM))


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misconfigured(f"{path} is not an elliptic-curve key")
    return key
