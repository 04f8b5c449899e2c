"""Errors that a caller sees, rendered in OpenAI's envelope.

EngineError 500
├── InvalidRequest 400
│   └── ContextLengthExceeded 400
├── ModelNotFound 404
├── BodyTooLarge 413
└── Unavailable 503
"""

from __future__ import annotations

from typing import Any, ClassVar


class EngineError(Exception):
    """`message` is public: it says what is wrong, with the value, and what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "engine_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def envelope(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(EngineError):
    status = 400
    type = "invalid_request_error"
    code: ClassVar[str | None] = None


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(EngineError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class BodyTooLarge(EngineError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Unavailable(EngineError):
    """Loading, shutting down or dead."""

    status = 503
    code = "engine_unavailable"
