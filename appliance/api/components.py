"""What the operations of an OpenAPI document share: schemas of types, and answers that are problem documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from appliance.api.problems import PROBLEM_TYPE, Problem
from appliance.kernel.errors import ApplianceError

Json = dict[str, Any]


class Shared:
    """What the operations share: types, and answers that are problem documents."""

    def __init__(self) -> None:
        self._wanted: list[tuple[Any, Json]] = []
        self._problems: dict[str, Json] = {}

    def problem(self, errors: Iterable[type[ApplianceError]]) -> Json:
        """A reference to the answer with one of these errors, which have one status."""
        titles = {error.code: error.title for error in sorted(errors, key=lambda error: error.code)}
        name = ".".join(titles)
        if name not in self._problems:
            code = {"properties": {"code": {"enum": list(titles)}}}
            self._problems[name] = {
                "description": "; ".join(f"`{code}`: {title}" for code, title in titles.items()),
                "content": {PROBLEM_TYPE: {"schema": {"allOf": [self.of(Problem), code]}}},
            }
        return {"$ref": f"#/components/responses/{name}"}

    def of(self, annotation: Any) -> Json:
        """The schema of a type; empty until `components` was called."""
        schema: Json = {}
        self._wanted.append((annotation, schema))
        return schema

    def components(self) -> Json:
        """`schemas` and `responses`, complete."""
        types = [annotation for annotation, _ in self._wanted]
        schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        for (_, empty), schema in zip(self._wanted, schemas, strict=True):
            empty.update(schema)
        _mark_instants(types, components)
        components = msgspec.json.decode(msgspec.json.encode(components))  # a default may be a tuple; JSON has lists
        return {"schemas": dict(sorted(components.items())), "responses": dict(sorted(self._problems.items()))}


def _mark_instants(types: Iterable[Any], components: Json) -> None:
    """Say `date-time` of every instant: msgspec says so only where input must have a time zone; ours always has."""
    for struct in _structs(msgspec.inspect.multi_type_info(types)):
        for field in struct.fields:
            variants = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
            if any(isinstance(variant, msgspec.inspect.DateTimeType) for variant in variants):
                member = components[struct.cls.__name__]["properties"][field.encode_name]
                for schema in member.get("anyOf", [member]):
                    if schema.get("type") == "string":
                        schema["format"] = "date-time"


def _structs(types: Iterable[Any]) -> Iterator[msgspec.inspect.StructType]:
    """Every struct within these types, each once, however deep."""
    seen: set[int] = set()
    waiting = list(types)
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, msgspec.inspect.StructType):
            yield found
            waiting.extend(field.type for field in found.fields)
        elif isinstance(found, msgspec.inspect.Type):
            parts = (getattr(found, name, None) for name in ("type", "types", "item_type", "value_type"))
            for part in parts:
                waiting.extend(part if isinstance(part, tuple) else [part])
