"""Invariant I5 on the management API: a tenant neither sees, reaches nor learns of another's objects.

Generated from the OpenAPI document. A new route is covered by being there; a new kind of object in a path makes
`test_every_path_parameter_is_known` fail until it is either owned by `Neighbour` or named as shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from appliance.api.context import Port
from appliance.api.openapi import document
from tests.api.neighbours import CANARY, Neighbour, canaries, leaks
from tests.api.specimens import Json, Operation, example, operations, resolved
from tests.support.appliance import Appliance, done
from tests.support.http import PLAIN

SHARED = {"gateway": "default", "pool": "default", "flavor": "cpu-small", "runtime": "light"}
"""Path parameters that name what the platform lends to every tenant, with one that there is."""
OWNED = {"grant", "reservation", "user", "key", "model", "version", "upload", "path", "service", "budget"}
ALIASES = {"default_version": "version", "model_version": "version", "services": "service"}
"""Members of bodies that name an object under another name than paths do."""
ADMIN = operations(document(Port.admin))
TENANT = operations(document(Port.tenant))
FOR_A_TENANT = [*TENANT, *(found for found in ADMIN if found.id == "import_directory")]
LATE = {"show_limits", "get_latency"}
"""What tells of the use of the last minute, or only once that is over."""
VOLATILE = {"times", "gauges", "since", "until", "last_used_at", "spent", "remaining"}


def each(found: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", [pytest.param(item, id=item.id) for item in found])


@pytest.fixture(scope="module")
def owner(appliance: Appliance) -> Neighbour:
    return Neighbour(appliance, CANARY)


@pytest.fixture(scope="module")
def intruder(appliance: Appliance) -> Neighbour:
    return Neighbour(appliance, "intruder")


@pytest.fixture(scope="module")
def before(owner: Neighbour, intruder: Neighbour) -> dict[str, Any]:
    """What the owner has before anybody tries anything."""
    return _everything(owner)


@pytest.fixture(scope="module")
def feathers(appliance: Appliance, owner: Neighbour, before: dict[str, Any]) -> set[str]:
    found = canaries([str(before)], shared=appliance.client().get("platform/keys").text)
    assert len(found) > 15
    return found


@pytest.fixture(scope="module", params=list(Port))
def intruding(request: pytest.FixtureRequest, intruder: Neighbour, before: dict[str, Any]) -> httpx.Client:
    """The intruder on the tenant port, and an administrator who acts for the intruder on the admin port."""
    return intruder.admin if request.param is Port.tenant else intruder.as_operator


def _everything(tenant: Neighbour) -> dict[str, Any]:
    """All that can be read of a tenant, object by object, without what time alone changes."""
    found = {}
    for operation in TENANT:
        if operation.method == "GET":
            for path in _paths(operation, tenant.owned | {name: [value] for name, value in SHARED.items()}):
                answer = operation.send(tenant.as_operator, path)
                is_json = answer.headers["content-type"] == "application/json"
                found[f"{operation.id} {path}"] = _still(answer.json()) if is_json else answer.text
    return found


def _paths(operation: Operation, values: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    names = operation.path_parameters
    for chosen in itertools.product(*(values[name] for name in names)):
        yield dict(zip(names, chosen, strict=True))


def _still(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _still(value) for name, value in node.items() if name not in VOLATILE}
    return [_still(item) for item in node] if isinstance(node, list) else node


def _foreign_paths(operation: Operation, owner: Neighbour, intruder: Neighbour) -> Iterator[dict[str, str]]:
    """All of the owner's; and, where objects lie in one another, the intruder's own with the owner's within."""
    yield from _paths(operation, dict(owner.owned))
    names = operation.path_parameters
    for own in range(1, len(names)):
        values = {name: intruder.owned[name] if place < own else owner.owned[name] for place, name in enumerate(names)}
        yield from _paths(operation, values)


def test_every_path_parameter_is_known():
    names = {name for found in TENANT for name in found.path_parameters}
    assert names - SHARED.keys() == OWNED, "say whose objects these are: in SHARED, or in OWNED and Neighbour"


def test_the_owner_sees_all_of_it(owner: Neighbour, before: dict[str, Any]):
    """The other tests mean something only if these objects are there and answer."""
    everything = str(before)
    for name in owner.names():
        assert name in everything


@each([found for found in FOR_A_TENANT if OWNED.intersection(found.path_parameters)])
def test_anothers_objects_do_not_exist(
    operation: Operation, owner: Neighbour, intruder: Neighbour, intruding: httpx.Client, feathers: set[str]
):
    for path in _foreign_paths(operation, owner, intruder):
        answer = operation.send(intruding, path)
        assert answer.status_code == HTTPStatus.NOT_FOUND, f"{path}: {answer.text}"
        assert not leaks(answer, feathers, path)


@each([found for found in TENANT if found.method == "GET" and not OWNED.intersection(found.path_parameters)])
def test_what_everyone_may_read_shows_nothing_of_another(
    operation: Operation, intruding: httpx.Client, feathers: set[str]
):
    for path in _paths(operation, {name: [value] for name, value in SHARED.items()}):
        answer = operation.send(intruding, path)
        assert answer.is_success, answer.text
        assert not leaks(answer, feathers, "")


@each([found for found in TENANT if found.method == "GET" and list(found.parameters("query"))])
def test_filters_find_nothing_of_another(
    operation: Operation, owner: Neighbour, intruder: Neighbour, intruding: httpx.Client, feathers: set[str]
):
    own = {name: values[:1] for name, values in intruder.owned.items()} | {n: [v] for n, v in SHARED.items()}
    (path,) = _paths(operation, own)
    for parameter in operation.parameters("query"):
        schema = resolved(operation.root, parameter["schema"])
        if schema.get("type") == "string" and not {"enum", "format"} & schema.keys():
            for value in owner.names():
                answer = operation.send(intruding, path, query={parameter["name"]: value})
                assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text
                assert not leaks(answer, feathers, value)


@each([found for found in FOR_A_TENANT if "requestBody" in found.content and not found.is_public])
def test_bodies_cannot_name_anothers_objects(
    operation: Operation, owner: Neighbour, intruder: Neighbour, intruding: httpx.Client, feathers: set[str]
):
    (path,) = _paths(operation, {name: values[:1] for name, values in intruder.owned.items()})
    for body in _bodies_that_name(operation, owner):
        answer = operation.send(intruding, path, body=body)
        assert HTTPStatus.BAD_REQUEST <= answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text
        assert not leaks(answer, feathers, body)


def _bodies_that_name(operation: Operation, owner: Neighbour) -> Iterator[Json]:
    ((kind, media),) = operation.content["requestBody"]["content"].items()
    if kind != "application/json":
        return
    schema = resolved(operation.root, media["schema"])
    for member, inner in schema["properties"].items():
        named = ALIASES.get(member, member)
        for value in owner.owned.get(named, ()) if named in OWNED - {"path"} else ():
            is_list = resolved(operation.root, inner).get("type") == "array"
            yield example(operation.root, schema) | {member: [value] if is_list else value}


@each([found for found in TENANT if not found.is_public])
def test_another_tenant_cannot_be_chosen(
    operation: Operation, owner: Neighbour, intruder: Neighbour, feathers: set[str]
):
    for value in (owner.name, owner.id):
        answer = operation.send(intruder.admin, headers={"Appliance-Tenant": value})
        assert answer.status_code == HTTPStatus.NOT_FOUND, answer.text
        assert not leaks(answer, feathers, value)


def test_a_login_cannot_choose_a_tenant_that_it_is_no_member_of(
    appliance: Appliance, owner: Neighbour, intruder: Neighbour, feathers: set[str]
):
    browser = appliance.client("none", url=appliance.tenant_url)
    del browser.headers["Authorization"]
    login = {"name": intruder.owned["user"][0], "password": intruder.password}
    browser.headers["X-CSRF-Token"] = done(browser.post("logins", json=login))["csrf_token"]
    done(browser.put("me/password", json={"current": intruder.password, "new": "a-password-of-the-intruder"}))
    assert done(browser.get("services"))["items"][0]["name"] == "intruder-service"
    for value in (owner.name, owner.id):
        answer = browser.get("services", headers={"Appliance-Tenant": value})
        assert answer.status_code == HTTPStatus.NOT_FOUND
        assert not leaks(answer, feathers, value)


def test_an_idempotency_key_is_each_tenants_own(owner: Neighbour, intruder: Neighbour, feathers: set[str]):
    """The same actor, key and body for two tenants: two effects, and nobody gets the other's answer."""
    request = {"json": {"name": "twice"}, "headers": {"Idempotency-Key": "one"}}
    first, second = (tenant.as_operator.post("keys", **request) for tenant in (owner, intruder))
    assert done(first)["key"]["tenant_id"] == owner.id
    assert done(second)["key"]["tenant_id"] == intruder.id
    for tenant, key in ((owner, "twice"), (intruder, "twice")):
        done(tenant.as_operator.post(f"keys/{key}/revoke"))
        done(tenant.as_operator.delete(f"keys/{key}"))


def test_a_key_opens_no_other_tenants_service(owner: Neighbour, intruder: Neighbour, feathers: set[str]):
    headers = {"Authorization": f"Bearer {intruder.secret}"}
    body = {"model": f"{CANARY}-served", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    models = PLAIN.get(f"{owner.url}/models", headers=headers)
    chat = PLAIN.post(f"{owner.url}/chat/completions", headers=headers, json=body)
    for answer, sent in ((models, ""), (chat, body)):
        assert answer.is_success is False or not answer.json()["data"]
        assert not leaks(answer, feathers, sent)
    elsewhere = PLAIN.post(f"{intruder.url}/chat/completions", headers=headers, json=body)
    assert elsewhere.status_code == HTTPStatus.NOT_FOUND


def test_nothing_of_the_owner_has_changed(owner: Neighbour, before: dict[str, Any]):
    """Last: after all that was tried, every object is as it was, and no audit row tells otherwise."""
    after = _everything(owner)
    assert after.keys() == before.keys()
    for name, value in before.items():
        if "audit" not in name and name.partition(" ")[0] not in LATE:
            assert after[name] == value, name
    actions = {event["action"] for event in done(owner.as_operator.get("audit", params={"limit": 500}))["items"]}
    assert not actions & {"service.deleted", "model.deleted", "member.removed", "model.upload.aborted"}
