"""RFC 9457: every error of the management API as `application/problem+json`.

`type` is `/errors/<code>`, a page that the appliance itself serves; `title` is fixed for the code; `detail` is
about this occurrence; `errors[].pointer` names wrong members; `request_id` finds the log lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from appliance.kernel.errors import (
    ApplianceError,
    BadInput,
    FieldError,
    Forbidden,
    NotFound,
    Unauthenticated,
)
from appliance.kernel.logging import get_logger

log = get_logger(__name__)
PROBLEM_TYPE = "application/problem+json"


class ProblemField(msgspec.Struct, frozen=True):
    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[ProblemField] = []


@dataclass
class ErrorSpec(ResponseSpec):
    """The errors of one status that a route answers with; the OpenAPI document names their codes."""

    errors: Sequence[type[ApplianceError]] = ()


def problems(*errors: type[ApplianceError]) -> dict[int, ResponseSpec]:
    """The `responses=` of a handler: these errors and the ones that every route may answer with."""
    by_status: dict[int, list[type[ApplianceError]]] = {}
    all_errors: tuple[type[ApplianceError], ...] = (*errors, BadInput, Unauthenticated, Forbidden)
    for error in dict.fromkeys(all_errors):
        by_status.setdefault(error.status, []).append(error)
    return {
        status: ErrorSpec(Problem, generate_examples=False, media_type=PROBLEM_TYPE, errors=found)
        for status, found in by_status.items()
    }


def render(error: ApplianceError, request_id: str | None) -> Response[Problem]:
    problem = Problem(
        type=f"/errors/{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        errors=[ProblemField(field.pointer, field.detail) for field in error.errors],
    )
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.status == Unauthenticated.status:
        headers["WWW-Authenticate"] = 'Bearer realm="appliance"'
    return Response(problem, status_code=error.status, media_type=PROBLEM_TYPE, headers=headers)


def on_appliance_error(request: Request[Any, Any, Any], error: ApplianceError) -> Response[Problem]:
    if error.status >= 500:
        log.error("request.failed", code=error.code, detail=error.detail, exc_info=error, **error.context)
    return render(error, request.scope.get("state", {}).get("request_id"))


def on_validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    fields = [_field(extra) for extra in error.extra or () if isinstance(extra, dict)]
    detail = "; ".join(field.detail for field in fields) or error.detail
    return on_appliance_error(request, BadInput(detail, errors=fields))


def _field(extra: dict[str, Any]) -> FieldError:
    key = str(extra.get("key", ""))
    pointer = "/" + key.replace(".", "/") if key else ""
    message = str(extra.get("message", "is not valid"))
    return FieldError(pointer, f"{key}: {message}" if key else message)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Errors that the framework itself finds: an unknown path, a wrong method, a body that is not JSON."""
    if error.status_code == NotFound.status:
        return on_appliance_error(request, NotFound(f"there is nothing at {request.scope['path']}"))
    if error.status_code == BadInput.status:
        return on_appliance_error(request, BadInput(error.detail))
    problem = Problem(
        type=f"/errors/http-{error.status_code}",
        title=type(error).__name__.removesuffix("Exception"),
        status=error.status_code,
        detail=error.detail,
        code=f"http-{error.status_code}",
    )
    return Response(problem, status_code=error.status_code, media_type=PROBLEM_TYPE, headers=error.headers)


def on_group(request: Request[Any, Any, Any], error: ExceptionGroup[Exception]) -> Response[Problem]:
    """Litestar wraps what a dependency's cleanup raises; the first of ours is the answer."""
    ours, _ = error.split(ApplianceError)
    first: BaseException | None = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return on_appliance_error(request, first) if isinstance(first, ApplianceError) else on_unexpected(request, error)


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    log.error("request.crashed", path=request.scope["path"], exc_info=error)
    return render(
        ApplianceError("an unexpected error; the log has it under the request id"),
        request.scope.get("state", {}).get("request_id"),
    )


HANDLERS: dict[int | type[Exception], Any] = {
    ApplianceError: on_appliance_error,
    ValidationException: on_validation,
    HTTPException: on_http_exception,
    ExceptionGroup: on_group,
    Exception: on_unexpected,
}
