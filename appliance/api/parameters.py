"""What many routes share: the page of a list, the version that an update expects, and the one an answer carries."""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

from litestar import Response
from litestar.params import HeaderParameter, QueryParameter

from appliance.kernel.errors import BadInput, StaleVersion
from appliance.kernel.pagination import DEFAULT_LIMIT, LARGEST_LIMIT, PageRequest

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LARGEST_LIMIT, description="largest number of items")]
Cursor = Annotated[str | None, QueryParameter(name="cursor", description="`next_cursor` of the page before")]
IfMatch = Annotated[str | None, HeaderParameter(name="If-Match", description="the ETag that the change was based on")]

Labelled = Annotated[
    list[str] | None, QueryParameter(name="label", description="KEY=VALUE that they have; repeat it for several")
]
Force = Annotated[bool, QueryParameter(name="force", description="although services run by it: they are drained")]


def labels_of(pairs: list[str] | None) -> dict[str, str]:
    """What `label=KEY=VALUE` asks for; `BadInput` for what is not of that form."""
    wanted = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"label {pair!r} is not of the form KEY=VALUE")
        wanted[key] = value
    return wanted


async def provide_page(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> PageRequest:
    return PageRequest(limit, cursor)


class Versioned(Protocol):
    """A row, or what is shown of it, whose `version` grows with each change."""

    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=Versioned)
T = TypeVar("T")


def with_etag(shown: T, version: int, *, status: int = 200) -> Response[T]:
    """Answer with what is shown of an object, and its version."""
    return Response(shown, status_code=status, headers={"ETag": f'"{version}"'})


def versioned(shown: V) -> Response[V]:
    """The same of what is shown with its version."""
    return with_etag(shown, shown.version)


def expected(row: V, if_match: str | None) -> V:
    """The row itself; `StaleVersion` unless the caller's ETag, if any, is its present one."""
    if if_match is not None and if_match not in ("*", f'"{row.version}"'):
        raise StaleVersion(f'you have {if_match}, the current ETag is "{row.version}"; read the object again')
    return row
