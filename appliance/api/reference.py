"""What anyone may read: the OpenAPI document, its browsable page at `/api`, and a page for each error code.

Everything comes from this origin and nothing is a script, so that it works on a machine without a network and under
the strict Content-Security-Policy.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from appliance.api import page
from appliance.api.context import Port, context_of
from appliance.api.openapi import document
from appliance.kernel.errors import ApplianceError, NotFound
from appliance.kernel.resources import resource

_HTML: Final = "text/html"
_CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_AnyRequest = Request[Any, Any, Any]


@get("/api/openapi.json", public=True, sync_to_thread=True)
def get_document(request: _AnyRequest) -> Response[bytes]:
    """The OpenAPI document of this port."""
    return Response(_encoded(context_of(request).port), media_type="application/json")


@get("/api", public=True, sync_to_thread=True)
def get_page(request: _AnyRequest) -> Response[str]:
    """The document for people."""
    return Response(_page(context_of(request).port), media_type=_HTML)


@get("/api/style.css", public=True, sync_to_thread=False)
def get_stylesheet() -> Response[bytes]:
    return Response(page.STYLESHEET.read_bytes(), media_type="text/css")


@get("/errors", public=True, sync_to_thread=False)
def list_errors() -> Response[str]:
    """Every error code with its title."""
    return Response(page.error_list(errors_by_code()), media_type=_HTML)


@get("/errors/{code:str}", public=True, sync_to_thread=False)
def get_error(code: FromPath[str]) -> Response[str]:
    """What an error means and what to do; `type` of a problem document leads here."""
    file = error_page(code)
    if not _CODE.fullmatch(code) or not file.is_file():
        raise NotFound(f"there is no error {code[:64]!r}")
    return Response(page.error(code, file.read_text(encoding="utf-8")), media_type=_HTML)


def error_page(code: str) -> Path:
    """Where the Markdown about an error is."""
    return resource("docs/errors") / f"{code}.md"


def errors_by_code() -> dict[str, type[ApplianceError]]:
    """Every error class that is loaded, by its code; of several with one code the most general."""
    found: dict[str, type[ApplianceError]] = {}
    for error in ApplianceError.tree():
        found.setdefault(error.code, error)
    return dict(sorted(found.items()))


@functools.cache
def _encoded(port: Port) -> bytes:
    return msgspec.json.encode(document(port))


@functools.cache
def _page(port: Port) -> str:
    return page.reference(document(port))


def public_routes() -> list[ControllerRouterHandler]:
    """On both ports, without authentication."""
    return [get_document, get_page, get_stylesheet, list_errors, get_error]
