"""The allow-list of engine routes, made ready for look-ups.

A route is written "METHOD /path", and after it what it declares: `raw` for a body of any type that is passed on
unread, `query` for a query string that is passed on. A segment `{name}` of the path stands for any one segment of
unreserved characters; what `{model}` stands for must be a name of the service's model, and the engine is told its
own. The raw path is compared byte for byte: nothing is decoded or normalised, so `//`, `%2f` or `..` cannot reach
anything. What is not listed does not exist.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

_SEGMENT = re.compile(rb"[A-Za-z0-9._~-]{1,128}")
_DOTS: Final = (b".", b"..")
_MODEL: Final = b"{model}"
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE"})


class Body(Enum):
    """What a route's body is, and so what is checked of it and inserted into it."""

    NONE = auto()
    OPENAI = auto()
    """A JSON object with the members of OpenAI's API."""
    INFER = auto()
    """An inference request of the Open Inference Protocol, with its binary extension."""
    JSON = auto()
    """Any JSON value."""
    RAW = auto()


class Route:
    """`label` is "METHOD /path" as it is listed, `line` the beginning of the request line for the engine."""

    __slots__ = ("body", "label", "line", "query", "segments")

    def __init__(self, described: str) -> None:
        method, path, *options = described.split(" ")
        self.label = f"{method} {path}"
        self.line = self.label.encode()
        self.query = "query" in options
        self.body = _body_of(method, path, raw="raw" in options)
        self.segments = tuple(path.encode().split(b"/")) if "{" in path else None
        """None if the path has no placeholders."""

    def fits(self, segments: list[bytes]) -> bool:
        """Whether the segments of a path are those of this route, which has placeholders."""
        own = self.segments or ()
        return len(own) == len(segments) and all(
            _SEGMENT.fullmatch(given) is not None and given not in _DOTS if expected[:1] == b"{" else given == expected
            for expected, given in zip(own, segments, strict=True)
        )


class Matched(NamedTuple):
    """`line` is the beginning of the request line for the engine, `model` the model if the path names it."""

    route: Route
    line: bytes
    model: str | None = None


class Found(NamedTuple):
    """A route with what a path says in place of its placeholders."""

    route: Route
    segments: list[bytes]

    def model(self) -> str | None:
        """What the path has in place of `{model}`."""
        own = self.route.segments or ()
        return self.segments[own.index(_MODEL)].decode() if _MODEL in own else None

    def line(self, model: bytes) -> bytes:
        """The beginning of the request line, with the engine's name of its model."""
        own = self.route.segments or ()
        path = [model if expected == _MODEL else given for expected, given in zip(own, self.segments, strict=True)]
        return self.route.line.partition(b" ")[0] + b" " + b"/".join(path)


class RouteTable:
    """Services with equal routes share one."""

    __slots__ = ("_fixed", "_templates")

    def __init__(self, described: tuple[str, ...]) -> None:
        routes = [Route(entry) for entry in described]
        self._fixed = {route.line: Matched(route, route.line) for route in routes if route.segments is None}
        self._templates = [route for route in routes if route.segments is not None]

    def fixed(self, method: bytes, path: bytes) -> Matched | None:
        """Of the routes without placeholders, the one that it is."""
        return self._fixed.get(b"%b %b" % (method, path))

    def find(self, method: bytes, path: bytes) -> Found | None:
        """Of the routes with placeholders, the first that fits."""
        if not self._templates:
            return None
        segments, verb = path.split(b"/"), method + b" "
        for route in self._templates:
            if route.line.startswith(verb) and route.fits(segments):
                return Found(route, segments)
        return None

    def methods(self, path: bytes) -> list[str]:
        """The methods that are listed for `path`."""
        segments = path.split(b"/")
        lines = [line for line in self._fixed if line.endswith(b" " + path)]
        lines += [route.line for route in self._templates if route.fits(segments)]
        return sorted({line.partition(b" ")[0].decode() for line in lines})


@lru_cache(maxsize=256)
def route_table(described: tuple[str, ...]) -> RouteTable:
    return RouteTable(described)


def _body_of(method: str, path: str, *, raw: bool) -> Body:
    if method in _BODILESS:
        return Body.NONE
    if raw:
        return Body.RAW
    if path.startswith("/v1/"):
        return Body.OPENAI
    if path.startswith("/v2/") and path.endswith("/infer"):
        return Body.INFER
    return Body.JSON
