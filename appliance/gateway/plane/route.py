"""From a listener and a request line to a service and one of its allowed routes.

The raw path is compared byte for byte with the allow-list: nothing is decoded or normalised, so `//`, `%2f` or `..`
cannot reach anything. What is not listed does not exist.
"""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.tables import ServiceTable

PUBLIC: Final = frozenset({(b"HEAD", b"/"), (b"GET", b"/healthz"), (b"HEAD", b"/healthz")})
"""Answered by the gateway without a key; they tell nothing but that a gateway is there."""

_MODELS: Final = b"/v1/models"
_MODEL: Final = b"/v1/models/"


def own_answer(head: RequestHead, service: ServiceTable) -> bytes | None:
    """The body of an answer that the gateway gives itself to an authenticated client, None if it is not one."""
    if head.method != b"GET":
        return None
    if head.path == _MODELS:
        return service.models_answer
    if head.path.startswith(_MODEL):
        answer = service.model_answers.get(head.path.removeprefix(_MODEL))
        if answer is None:
            raise model_not_found(head.path.removeprefix(_MODEL).decode("ascii"))
        return answer
    return None


def engine_route(head: RequestHead, service: ServiceTable) -> str:
    """`METHOD /path` of the allow-list; `Refusal` 404 or 405 for anything else."""
    route = service.routes.get(b"%b %b" % (head.method, head.path))
    if route is not None:
        return route
    methods = service.methods.get(head.path)
    if methods is not None:
        raise Refusal(
            405,
            "method_not_allowed",
            f"{head.method.decode()} is not allowed here; allowed: {', '.join(methods)}.",
            headers=f"allow: {', '.join(methods)}\r\n".encode(),
        )
    raise Refusal(404, "unknown_url", f"Unknown request URL: {head.method.decode()} {head.path.decode('ascii')[:200]}.")


def model_not_found(name: str) -> Refusal:
    return Refusal(
        404,
        "model_not_found",
        f"The model '{name[:200]}' does not exist here or you do not have access to it; GET /v1/models lists yours.",
        param="model",
    )
