"""A listener's TLS: its certificates, by the name that a client asks for, and how they follow their files.

Only TLS 1.2 and 1.3, no renegotiation. Sessions are resumed by tickets that each worker encrypts with keys of its
own (Python's `ssl` has no way to set them), so that of several workers only the one that issued a ticket resumes it;
with another the handshake is a full one.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

from appliance.gateway.plane.schemas.listeners import Listener, TlsFiles


class Certificate:
    """A TLS context whose certificate follows its files. New handshakes get the new one, connections stay, and
    tickets given before are still taken.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._identity()
        self.context = self._load()

    def reload_if_changed(self) -> bool:
        """`OSError` (with `ssl.SSLError`) if the new files cannot be used; the old certificate stays."""
        seen = self._identity()
        if seen == self._seen:
            return False
        self._seen = seen
        self._load()  # a pair that does not match must not half replace the one in use
        self.context.load_cert_chain(self._files.certificate, self._files.key)
        return True

    def _identity(self) -> tuple[int, ...]:
        parts: list[int] = []
        for name in (self._files.certificate, self._files.key):
            with contextlib.suppress(FileNotFoundError):
                found = Path(name).stat()
                parts += [found.st_ino, found.st_mtime_ns, found.st_size]
        return tuple(parts)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 1
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context


class Certificates:
    """All of one listener. A client that asks for no name, or for one that is not known, gets the default."""

    def __init__(self, default: TlsFiles, by_name: dict[str, TlsFiles]) -> None:
        """`OSError` (with `ssl.SSLError`) if any cannot be used."""
        self._default = Certificate(default)
        self._by_name = {name.lower(): Certificate(files) for name, files in by_name.items()}
        self.context = self._default.context
        if by_name:
            self.context.sni_callback = self._choose

    def reload_if_changed(self) -> bool:
        """As `Certificate.reload_if_changed`; one that cannot be used does not keep the others from being reloaded."""
        changed = False
        failure: OSError | None = None
        for certificate in (self._default, *self._by_name.values()):
            try:
                changed |= certificate.reload_if_changed()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        return changed

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower()
        certificate = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        if certificate is not None:
            connection.context = certificate.context


def certificates_of(listener: Listener) -> Certificates | None:
    """None: it speaks plain HTTP."""
    return Certificates(listener.tls, listener.tls_by_name) if listener.tls is not None else None
