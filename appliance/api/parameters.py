"""Parameters that many routes share: the page of a list, and the version an update expects."""

from __future__ import annotations

from typing import Annotated

from litestar.params import HeaderParameter, QueryParameter

from appliance.kernel.errors import StaleVersion
from appliance.kernel.pagination import DEFAULT_LIMIT, LARGEST_LIMIT, PageRequest

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LARGEST_LIMIT, description="largest number of items")]
Cursor = Annotated[str | None, QueryParameter(name="cursor", description="`next_cursor` of the page before")]
IfMatch = Annotated[str | None, HeaderParameter(name="If-Match", description="the ETag that the change was based on")]


async def provide_page(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> PageRequest:
    return PageRequest(limit, cursor)


def etag(version: int) -> dict[str, str]:
    """The headers that carry an object's version."""
    return {"ETag": f'"{version}"'}


def expect(if_match: str | None, version: int) -> None:
    """Raise `StaleVersion` unless the caller's ETag, if any, is the current one."""
    if if_match is not None and if_match not in ("*", f'"{version}"'):
        raise StaleVersion(f'you have {if_match}, the current ETag is "{version}"; read the object again')
