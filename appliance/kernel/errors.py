"""The one hierarchy of errors, free of any transport.

```
ApplianceError
├── BadInput 400 ── Unauthenticated 401 ── Forbidden 403 ── NotFound 404
├── Conflict 409 ── StaleVersion 412 ── Unprocessable 422 ── LimitReached 409
├── Unavailable 503 ── DatabaseUnavailable 503
└── Misconfigured 500 (the process does not start)
```

A class has a stable `code` (documented in `docs/errors/<code>.md`), a `title` and an HTTP `status`; an instance
has `detail`, which the caller may read, and `context`, which is only logged. A message says what is wrong, with
the value, and what to do next. Rendering is elsewhere: problem details on the management API, the OpenAI
envelope on the data plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One wrong member of the input; `pointer` is a JSON Pointer (RFC 6901) into the request body."""

    pointer: str
    detail: str


class ApplianceError(Exception):
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong inside the appliance"
    status: ClassVar[int] = 500
    retry_after_s: int | None = None

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        **context: object,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.context: Mapping[str, object] = context
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    @classmethod
    def tree(cls) -> Iterator[type[ApplianceError]]:
        """This class and every class below it, each once."""
        yield cls
        for sub in cls.__subclasses__():
            yield from sub.tree()


class BadInput(ApplianceError):
    code = "bad-input"
    title = "The request is not valid"
    status = 400


class Unauthenticated(ApplianceError):
    code = "unauthenticated"
    title = "Who is asking is not known"
    status = 401


class Forbidden(ApplianceError):
    code = "forbidden"
    title = "This is not allowed"
    status = 403


class NotFound(ApplianceError):
    """Also the answer for an object that exists outside the caller's scope."""

    code = "not-found"
    title = "There is no such object"
    status = 404


class Conflict(ApplianceError):
    code = "conflict"
    title = "The object's state does not permit this"
    status = 409


class NameTaken(Conflict):
    code = "name-taken"
    title = "The name is in use"


class InUse(Conflict):
    code = "in-use"
    title = "The object is in use"


class LimitReached(ApplianceError):
    code = "limit-reached"
    title = "A limit is reached"
    status = 409


class StaleVersion(ApplianceError):
    code = "stale-version"
    title = "The object has changed since it was read"
    status = 412


class IdempotencyKeyReused(ApplianceError):
    code = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"
    status = 422


class Unavailable(ApplianceError):
    code = "unavailable"
    title = "A part that is needed does not answer"
    status = 503
    retry_after_s = 2


class DatabaseUnavailable(Unavailable):
    code = "database-unavailable"
    title = "The database does not answer"


class LeaseLost(ApplianceError):
    """A writer whose lease was taken over; what it wanted to write is void."""

    code = "lease-lost"
    title = "Another process has taken over"
    status = 503
    retry_after_s = 1


class AuditMissing(ApplianceError):
    """A mutation that left no audit row; it is rolled back. Always a defect of ours."""

    code = "audit-missing"
    title = "The change could not be audited and was not made"


class Misconfigured(ApplianceError):
    code = "misconfigured"
    title = "The configuration is not valid"
