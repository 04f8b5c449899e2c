"""Requests made up from an OpenAPI document: valid as far as the document can say, so that refusals mean something."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

Json = dict[str, Any]
_TEXTS: Final = ("specimen", "specimen:1", "0" * 64)
"""What the patterns of the API's strings are tried with: a name, an image's reference, a digest."""


@dataclass(frozen=True)
class Operation:
    """One operation of the document `root`."""

    method: str
    path: str
    content: Json = field(repr=False)
    root: Json = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def id(self) -> str:
        return str(self.content["operationId"])

    @property
    def permission(self) -> str | None:
        return self.content.get("x-permission")

    @property
    def is_public(self) -> bool:
        return self.content["security"] == []

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")

    def parameters(self, place: str) -> Iterator[Json]:
        for given in self.content.get("parameters", []):
            found = resolved(self.root, given)
            if found["in"] == place:
                yield found

    @property
    def path_parameters(self) -> list[str]:
        return [parameter["name"] for parameter in self.parameters("path")]

    def send(
        self,
        client: httpx.Client,
        path: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> httpx.Response:
        """Send it; what is not given is made up where it is required, a path's parameter as `missing`."""
        target = self.path.removeprefix("/api/v1/")
        for name in self.path_parameters:
            target = target.replace(f"{{{name}}}", (path or {}).get(name, self._made_up_segment(name)))
        made_up = {
            place: {
                parameter["name"]: str(example(self.root, parameter["schema"]))
                for parameter in self.parameters(place)
                if parameter.get("required")
            }
            for place in ("query", "header")
        }
        return client.request(
            self.method,
            target,
            params=made_up["query"] | dict(query or {}),
            headers=made_up["header"] | dict(headers or {}),
            **self._content(body),
        )

    def _made_up_segment(self, name: str) -> str:
        (parameter,) = (found for found in self.parameters("path") if found["name"] == name)
        schema = resolved(self.root, parameter["schema"])
        return str(schema["enum"][0]) if "enum" in schema else "missing"

    def _content(self, body: Any) -> Json:
        if "requestBody" not in self.content:
            return {}
        ((kind, media),) = self.content["requestBody"]["content"].items()
        if kind != "application/json":
            return {"content": b"x"}
        return {"json": example(self.root, media["schema"]) if body is None else body}


def operations(document: Json) -> list[Operation]:
    return [
        Operation(method.upper(), path, content, document)
        for path, methods in document["paths"].items()
        for method, content in methods.items()
    ]


def resolved(root: Json, schema: Json) -> Json:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def example(root: Json, schema: Json) -> Any:
    """A small value that the schema admits: required members only."""
    schema = resolved(root, schema)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return example(root, schema[union][0])
    return schema["enum"][0] if "enum" in schema else _plain(root, schema)


def _plain(root: Json, schema: Json) -> Any:
    match schema.get("type"):
        case "object":
            return {name: example(root, schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [example(root, schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number":
            return max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return False
        case "string":
            return _text(schema)
        case other:
            raise AssertionError(f"no specimen for a schema of type {other}: {schema}")


def _text(schema: Json) -> str:
    if schema.get("format") == "date-time":
        return "2030-01-01T00:00:00Z"
    for text in _TEXTS:
        if re.search(schema.get("pattern", ""), text):
            return text
    raise AssertionError(f"no specimen matches {schema['pattern']}")
