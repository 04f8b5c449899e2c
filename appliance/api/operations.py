"""One route as an OpenAPI 3.1 operation, read off its handler: nothing is said twice.

Schemas are msgspec's own, by which requests are decoded, so the document demands what the server demands. What
cannot be read off a signature stands in the handler's `opt`: `permission`, `public`, `any_actor`, `body_media_type`
(the handler reads the body itself), `response_headers` (name to description).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.params import BodyKwarg, ParameterKwarg
from litestar.response import Stream
from litestar.types import Empty
from litestar.typing import FieldDefinition

from appliance.api.components import Json, Shared
from appliance.api.idempotency import once
from appliance.api.parameters import provide_page
from appliance.api.problems import ErrorSpec
from appliance.kernel.errors import (
    ApplianceError,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    NotFound,
)
from tenants.errors import PasswordChangeRequired, TenantSuspended

SAFE: Final = frozenset({"GET", "HEAD"})
_PATH_PARAMETER: Final = re.compile(r"{(\w+):\w+}")
_OWN_DEPENDENCIES: Final = {"work": None, "page": provide_page}
_PATH_DESCRIPTIONS: Final = {
    "path": "the file's path within the model; it may contain slashes",
    "version": "a branch, a tag or an id",
    "upload": "id of the upload",
    "image": "id of a registered image",
    "budget": "id of the budget",
    "device_id": "id of the device",
    "runtime": "name of the runtime",
    "resource": "what is limited",
}


def path_of(handler: HTTPRouteHandler) -> str:
    """The handler's one path, as OpenAPI writes it."""
    (path,) = handler.paths
    return _PATH_PARAMETER.sub(r"{\1}", path)


def describe(handler: HTTPRouteHandler, shared: Shared) -> Json:
    """The operation of a handler with one path and one method."""
    (method,) = handler.http_methods
    text = " ".join((handler.fn.__doc__ or "").split())
    operation: Json = {
        "operationId": handler.fn.__name__,
        "summary": _first_sentence(text),
        "description": text,
        "tags": list(handler.tags or ()),
        "parameters": [*_parameters(handler, shared), *_header_parameters(handler)],
        "requestBody": _body(handler, shared),
        "responses": dict(_responses(handler, shared)),
        "security": _security(handler, str(method)),
    }
    if permission := handler.opt.get("permission"):
        operation["x-permission"] = permission.value
    return {name: value for name, value in operation.items() if value or name == "security"}


def _first_sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)|; ", text, maxsplit=1)[0]


def _security(handler: HTTPRouteHandler, method: str) -> list[Json]:
    if "public" in handler.opt:
        return []
    return [{"key": []}, {"login": []} if method in SAFE else {"login": [], "csrf": []}]


def replays(handler: HTTPRouteHandler) -> bool:
    """Whether the handler takes an Idempotency-Key: it answers through `once`."""
    code = getattr(handler.fn, "__code__", None)
    return code is not None and once.__name__ in code.co_names


def _header_parameters(handler: HTTPRouteHandler) -> Iterator[Json]:
    if replays(handler):
        yield {"$ref": "#/components/parameters/IdempotencyKey"}
    if "public" not in handler.opt:
        yield {"$ref": "#/components/parameters/ApplianceTenant"}


def _parameters(handler: HTTPRouteHandler, shared: Shared) -> Iterator[Json]:
    (path,) = handler.paths
    in_path = _PATH_PARAMETER.findall(path)
    fields = handler.parsed_fn_signature.parameters
    for name in in_path:
        description = _PATH_DESCRIPTIONS.get(name, "its name or id")
        schema = shared.of(fields[name].annotation if name in fields else str)
        yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
    rest = {name: field for name, field in fields.items() if name not in (*in_path, "request", "data")}
    yield from _optional_parameters(handler, rest, shared)


def _optional_parameters(
    handler: HTTPRouteHandler, fields: Mapping[str, FieldDefinition], shared: Shared
) -> Iterator[Json]:
    """Query and header parameters of the handler and of what it depends on."""
    provided = {name: given.dependency for name, given in (handler.dependencies or {}).items()}  # type: ignore[union-attr]
    for name, field in fields.items():
        if name in provided or name in _OWN_DEPENDENCIES:
            provider = provided.get(name) or _OWN_DEPENDENCIES[name]
            if provider is not None:
                yield from _of_provider(provider, shared)
        else:
            yield _parameter(name, field, shared)


def _of_provider(provider: Any, shared: Shared) -> Iterator[Json]:
    from litestar.utils.signature import ParsedSignature  # noqa: PLC0415 - only documents need it

    signature = ParsedSignature.from_fn(provider, {})
    for name, field in signature.parameters.items():
        if name != "request":
            yield _parameter(name, field, shared)


def _parameter(name: str, field: FieldDefinition, shared: Shared) -> Json:
    given = field.kwarg_definition
    kwarg = given if isinstance(given, ParameterKwarg) and not isinstance(given, BodyKwarg) else ParameterKwarg()
    is_header = type(kwarg).__name__ == "HeaderParameter" or kwarg.header is not None
    parameter: Json = {
        "name": getattr(kwarg, "name", None) or kwarg.header or kwarg.query or name,
        "in": "header" if is_header else "query",
        "schema": shared.of(_constrained(field, kwarg)),
    }
    if field.default is Empty:
        parameter["required"] = True
    if kwarg.description:
        parameter["description"] = kwarg.description
    return parameter


def _constrained(field: FieldDefinition, kwarg: ParameterKwarg) -> Any:
    """The parameter's type with its bounds and default; an optional one is left out, not null."""
    annotation = field.annotation
    if type(None) in get_args(annotation):
        annotation = Union[tuple(arg for arg in get_args(annotation) if arg is not type(None))]  # noqa: UP007
    bounds = {name: value for name in ("ge", "gt", "le", "lt") if (value := getattr(kwarg, name)) is not None}
    if annotation is datetime:
        bounds["tz"] = True
    if field.default not in (Empty, None):
        bounds["extra_json_schema"] = {"default": field.default}
    return Annotated[annotation, msgspec.Meta(**bounds)] if bounds else annotation


def _body(handler: HTTPRouteHandler, shared: Shared) -> Json | None:
    if media_type := handler.opt.get("body_media_type"):
        return {"required": True, "content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    data = handler.parsed_fn_signature.parameters.get("data")
    if data is None:
        return None
    return {"required": True, "content": {"application/json": {"schema": shared.of(data.annotation)}}}


def _responses(handler: HTTPRouteHandler, shared: Shared) -> Iterator[tuple[str, Json]]:
    success: Json = {"description": HTTPStatus(int(handler.status_code)).phrase}
    annotation = handler.parsed_fn_signature.return_type.annotation
    answer = get_args(annotation)[0] if get_origin(annotation) is Response else annotation
    if answer is Stream:
        success["content"] = {str(handler.media_type): {"schema": {"type": "string"}}}
    elif answer not in (None, type(None)):
        media_type = str(handler.media_type or "application/json")
        success["content"] = {media_type: {"schema": shared.of(answer)}}
    if headers := handler.opt.get("response_headers"):
        success["headers"] = {
            name: {"description": description, "schema": {"type": "string"}} for name, description in headers.items()
        }
    yield str(handler.status_code), success
    by_status: dict[int, set[type[ApplianceError]]] = {}
    for error in _errors(handler):
        by_status.setdefault(error.status, set()).add(error)
    for status in sorted(by_status):
        yield str(status), shared.problem(by_status[status])


def _errors(handler: HTTPRouteHandler) -> Iterator[type[ApplianceError]]:
    yield from (ApplianceError, DatabaseUnavailable)
    if "public" not in handler.opt:
        yield from (NotFound, TenantSuspended, PasswordChangeRequired)
    if replays(handler):
        yield IdempotencyKeyReused
    for spec in (handler.responses or {}).values():
        if isinstance(spec, ErrorSpec):
            yield from spec.errors
