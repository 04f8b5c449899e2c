"""A JSON Schema in a few words of HTML: `string (date-time)`, `list of Service`, `integer, 1 to 500, default 50`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Final

from appliance.api.components import Json

_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {}"),
    ("maxItems", "at most {}"),
)


def type_of(schema: Json) -> str:
    """HTML; references become links to the page's Types."""
    return ", ".join([_kind(schema), *_details(schema)])


def _kind(schema: Json) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}">{name}</a>'
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(type_of(part) for part in schema[union])
    if values := schema.get("enum") or [value for value in [schema.get("const")] if value is not None]:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in values)
    return _plain(schema)


def _plain(schema: Json) -> str:
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array":
        return f"list of {type_of(schema['items'])}" if isinstance(schema.get("items"), dict) else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {type_of(values)}" if isinstance(values, dict) and values else "object"
    return f"{kind} ({escape(schema['format'])})" if "format" in schema else kind


def _details(schema: Json) -> Iterator[str]:
    for name, text in _BOUNDS:
        if name in schema:
            yield text.format(schema[name])
    if "pattern" in schema:
        yield f"matches <code>{escape(schema['pattern'])}</code>"
    if "default" in schema and schema["default"] not in (None, "", [], {}):
        yield f"default <code>{escape(json.dumps(schema['default']))}</code>"
