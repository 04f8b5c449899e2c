"""The OpenAPI documents: complete, consistent, and what is kept in the repository."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.api.authentication import COOKIE, CSRF_HEADER
from appliance.api.context import Port
from appliance.api.document import differences, main, text, write
from appliance.api.openapi import document
from appliance.api.reference import errors_by_code
from appliance.kernel.resources import resource
from tests.api.specimens import Json, Operation, operations, resolved


def _takes(operation: Operation, header: str) -> bool:
    return header in {parameter["name"] for parameter in operation.parameters("header")}


ALL = [pytest.param(found, id=f"{port}-{found.id}") for port in Port for found in operations(document(port))]
PORTS = pytest.mark.parametrize("port", list(Port))
BUILT_IN = {"array", "boolean", "integer", "null", "number", "object", "string"}


def test_the_kept_documents_are_current():
    assert not list(differences(resource("docs/openapi"))), "run `make openapi`"


def test_a_document_that_differs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path)
    assert main(["--check", str(tmp_path)]) == 0
    file = tmp_path / "tenant.json"
    file.write_text(file.read_text().replace('"list_services"', '"lists_services"', 1))
    assert main(["--check", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert '-        "operationId": "lists_services"' in shown
    assert "make openapi" in shown


def test_a_document_that_is_not_there_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--check", str(tmp_path)]) == 1
    assert "more lines" in capsys.readouterr().err


@PORTS
def test_order_is_stable(port: Port):
    document.cache_clear()
    first = text(port)
    document.cache_clear()
    assert text(port) == first


def test_the_admin_port_has_all_that_the_tenant_port_has():
    admin, tenant = ({(o.method, o.path) for o in operations(document(port))} for port in Port)
    assert tenant < admin


@PORTS
def test_operation_ids_are_unique(port: Port):
    counts = Counter(found.id for found in operations(document(port)))
    assert [name for name, count in counts.items() if count > 1] == []


@PORTS
def test_every_reference_leads_somewhere(port: Port):
    root = document(port)
    for reference in _references(root):
        assert resolved(root, {"$ref": reference}), reference


@PORTS
def test_schemas_have_only_types_that_there_are(port: Port):
    for schema in _schemas(document(port)["components"]["schemas"]):
        kind = schema.get("type")
        assert kind is None or set([kind] if isinstance(kind, str) else kind) <= BUILT_IN, schema


@PORTS
def test_patterns_are_regular_expressions_of_javascript_too(port: Port):
    """No lookbehind, no named groups, no flags, no \\A or \\Z: what Python and ECMAScript read alike."""
    for schema in _schemas(document(port)):
        if "pattern" in schema:
            re.compile(schema["pattern"])
            assert not re.search(r"\(\?<|\(\?P|\(\?[aiLmsux]|\\A|\\Z", schema["pattern"]), schema["pattern"]


@pytest.mark.parametrize("operation", ALL)
def test_operations_say_what_they_do(operation: Operation):
    assert operation.content["summary"]
    assert not operation.content["summary"].endswith(".")
    assert operation.content["description"].endswith(".")
    assert len(operation.content["tags"]) == 1
    assert operation.content["tags"][0] in {tag["name"] for tag in operation.root["tags"]}


@pytest.mark.parametrize("operation", ALL)
def test_paths_and_their_parameters_agree(operation: Operation):
    assert re.findall(r"{(\w+)}", operation.path) == operation.path_parameters
    for place in ("path", "query", "header"):
        for parameter in operation.parameters(place):
            assert parameter["schema"], parameter["name"]
            assert parameter.get("description"), f"{operation}: {parameter['name']} says nothing"


@pytest.mark.parametrize("operation", ALL)
def test_operations_say_who_may_call_them(operation: Operation):
    login = {"login": []} if not operation.writes else {"login": [], "csrf": []}
    assert operation.content["security"] in ([], [{"key": []}, login])
    schemes = operation.root["components"]["securitySchemes"]
    assert (schemes["login"]["name"], schemes["csrf"]["name"]) == (COOKIE, CSRF_HEADER)


@pytest.mark.parametrize("operation", ALL)
def test_errors_are_problem_documents_of_known_codes(operation: Operation):
    known = errors_by_code()
    statuses = {status for status in operation.content["responses"] if int(status) >= 400}
    expected = {"400", "401", "403", "500", "503"}
    assert expected <= statuses
    for status in statuses:
        answer = resolved(operation.root, operation.content["responses"][status])
        ((kind, media),) = answer["content"].items()
        assert kind == "application/problem+json"
        reference, codes = media["schema"]["allOf"]
        assert reference["$ref"].endswith("/Problem")
        for code in codes["properties"]["code"]["enum"]:
            assert str(known[code].status) == status


@pytest.mark.parametrize("operation", [param for param in ALL if param.values[0].method == "POST"])
def test_creating_takes_an_idempotency_key(operation: Operation):
    takes = _takes(operation, "Idempotency-Key")
    creates = "201" in operation.content["responses"] and not operation.is_public
    assert takes or not creates
    assert takes == ("idempotency-key-reused" in str(operation.content["responses"].get("422")))


@pytest.mark.parametrize("operation", [param for param in ALL if _takes(param.values[0], "If-Match")])
def test_what_takes_if_match_shows_an_etag(operation: Operation):
    """Reading the object shows it; what changes a part of the object takes the whole object's."""
    paths = operation.root["paths"]
    path = operation.path
    while "get" not in paths.get(path, {}):
        path = path.rpartition("/")[0]
    assert "ETag" in paths[path]["get"]["responses"]["200"]["headers"]
    assert "412" in operation.content["responses"]


@pytest.mark.parametrize("operation", ALL)
def test_the_tenant_can_be_chosen(operation: Operation):
    assert _takes(operation, "Appliance-Tenant") != operation.is_public


def test_the_documents_are_plain_json():
    for port in Port:
        assert json.loads(text(port)) == document(port)


def _references(node: Any) -> Iterator[str]:
    for found in _nodes(node):
        if isinstance(found.get("$ref"), str):
            yield found["$ref"]


def _schemas(node: Any) -> Iterator[Json]:
    for found in _nodes(node):
        if isinstance(found.get("type"), str | list) and "in" not in found:
            yield found


def _nodes(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from _nodes(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _nodes(inner)
