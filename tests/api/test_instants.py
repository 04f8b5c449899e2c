"""Dates that no calendar can work with: each instant of each operation, in the query or the body, is refused for what
it is and crashes nothing. Generated from the OpenAPI document.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from appliance.api.context import Port
from appliance.api.openapi import document
from appliance.kernel.errors import BadInput
from appliance.kernel.instants import EARLIEST, LATEST, checked
from tests.api.specimens import Json, Operation, example, operations, resolved
from tests.support.appliance import Appliance, done

STRANGE = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "2026-01-01T00:00:00",
    "2026-13-01T00:00:00Z",
    "99999999999999999999",
    "-1",
)
QUERIES = {"since", "until"}
ADMIN = operations(document(Port.admin))


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> httpx.Client:
    """The operator, who acts for a tenant."""
    tenant = done(appliance.client().post("tenants", json={"name": "calendar", "display_name": "calendar"}))
    return appliance.client(tenant=tenant["id"])


def instants(root: Json, schema: Json) -> Iterator[tuple[str, ...]]:
    """Where in a body there are instants."""
    schema = resolved(root, schema)
    if schema.get("format") == "date-time":
        yield ()
    for union in ("anyOf", "oneOf", "allOf"):
        for variant in schema.get(union, ()):
            yield from instants(root, variant)
    for name, member in schema.get("properties", {}).items():
        yield from ((name, *rest) for rest in instants(root, member))


def queries() -> Iterator[Any]:
    for operation in ADMIN:
        for parameter in operation.parameters("query"):
            if list(instants(operation.root, parameter["schema"])):
                yield pytest.param(operation, parameter["name"], id=f"{operation.id} {parameter['name']}")


def bodies() -> Iterator[Any]:
    for operation in ADMIN:
        for content in operation.content.get("requestBody", {}).get("content", {}).values():
            for place in dict.fromkeys(instants(operation.root, content["schema"])):
                yield pytest.param(operation, place, content["schema"], id=f"{operation.id} {'/'.join(place)}")


def test_every_instant_of_the_queries_is_found() -> None:
    named = [name for operation in ADMIN for p in operation.parameters("query") if (name := p["name"]) in QUERIES]
    assert len(list(queries())) == len(named) > 10
    assert len(list(bodies())) > 3


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize(("operation", "name"), list(queries()))
def test_a_strange_instant_in_a_query_is_refused(
    client: httpx.Client, operation: Operation, name: str, strange: str
) -> None:
    answer = operation.send(client, query={name: strange})
    assert HTTPStatus.BAD_REQUEST <= answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text
    if answer.status_code == HTTPStatus.BAD_REQUEST:
        assert name in answer.json()["detail"]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize(("operation", "place", "schema"), list(bodies()))
def test_a_strange_instant_in_a_body_is_refused(
    client: httpx.Client, operation: Operation, place: tuple[str, ...], schema: Json, strange: str
) -> None:
    body = copy.deepcopy(example(operation.root, schema))
    holder = body
    for name in place[:-1]:
        holder = holder.setdefault(name, {})
    holder[place[-1]] = strange
    answer = operation.send(client, body=body)
    assert HTTPStatus.BAD_REQUEST <= answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text


@pytest.mark.parametrize("hours", [-23, 0, 23])
def test_instants_at_the_edge_of_the_calendar_are_compared_and_not_converted(hours: int) -> None:
    place = timezone(timedelta(hours=hours))
    for instant in (datetime.min.replace(tzinfo=place), datetime.max.replace(tzinfo=place)):
        with pytest.raises(BadInput, match="is not between the years 1970 and 9000"):
            checked(instant, "since")
    assert checked(EARLIEST.astimezone(place), "since") == EARLIEST
    assert checked(LATEST.astimezone(place), "since") == LATEST
