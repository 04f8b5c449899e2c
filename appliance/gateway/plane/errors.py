"""Refusals, and their form: OpenAI's error envelope `{"error": {"message", "type", "param", "code"}}`, or on paths of
the Open Inference Protocol (`/v2...`, `/{service}/v2...`) `{"error": "message"}`.

A message says what is wrong and what to do next, and nothing about how the appliance is built or about anyone
else's objects.
"""

from __future__ import annotations

from typing import Final

import msgspec

INVALID_REQUEST: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"

_encode = msgspec.json.Encoder().encode


class Refusal(Exception):
    """Ends a request with an answer of the gateway's own. `close`: what follows on the connection cannot be
    understood, so nothing after the answer is read.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        headers: bytes = b"",
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.headers = headers
        self.close = close

    def body(self, path: bytes = b"") -> bytes:
        """`path`: of the request; the Open Inference Protocol has a form of its own."""
        if speaks_v2(path):
            return _encode({"error": self.message})
        return envelope(self.message, self.kind, self.code, self.param)


def speaks_v2(path: bytes) -> bool:
    if b"/v2" not in path:
        return False
    segments = path.split(b"/", 3)
    return b"v2" in segments[1:3]


def envelope(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def bad_framing(reason: str) -> Refusal:
    """The request's extent is in doubt: 400, and the connection ends (a smuggled request must not be read)."""
    return Refusal(400, "bad_request", f"The HTTP request is malformed: {reason}.", close=True)


def invalid_key(message: str = "Incorrect API key provided.") -> Refusal:
    return Refusal(
        401,
        "invalid_api_key",
        f"{message} Send a key of this service's tenant as 'Authorization: Bearer <key>'.",
        headers=b"www-authenticate: Bearer\r\n",
    )


def nothing_here() -> Refusal:
    return Refusal(404, "no_service", "No service is published here.")


def model_not_found(name: str) -> Refusal:
    return Refusal(
        404,
        "model_not_found",
        f"The model '{name[:200]}' does not exist here or you do not have access to it; GET /v1/models lists yours.",
        param="model",
    )


def body_too_large(limit: int) -> Refusal:
    return Refusal(413, "request_too_large", f"The request body is larger than this service's limit of {limit} bytes.")


def unavailable(code: str, message: str, *, retry_after_s: int) -> Refusal:
    return Refusal(503, code, message, kind=SERVER_ERROR, headers=b"retry-after: %d\r\n" % retry_after_s)


def engine_failed(status: int, code: str, message: str) -> Refusal:
    return Refusal(status, code, message, kind=SERVER_ERROR)
