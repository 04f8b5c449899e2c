"""Who may call what, generated from the OpenAPI documents: a new route is covered by being there.

Only refusals are provoked, or requests about objects that do not exist; so one appliance serves all of them.
"""

from __future__ import annotations

from http import HTTPStatus

import httpx
import pytest

from appliance.api.context import Port
from appliance.api.openapi import document
from tenants.permissions import PERMISSIONS, TENANT_PERMISSIONS, Permission, Role
from tests.api.specimens import Operation, operations
from tests.support.appliance import Appliance, Tenant, done

PUBLIC = {"log_in"}
"""Everything that answers without credentials below /api/v1."""
ABOUT_A_LOGIN = {"log_out", "log_out_everywhere", "change_password"}
"""Open to any actor, but only with a login: an API key is told so."""
TENANT, ADMIN = (operations(document(port)) for port in (Port.tenant, Port.admin))
ON_TENANT_PORT = {(found.method, found.path) for found in TENANT}
PLATFORM_ONLY = [found for found in ADMIN if (found.method, found.path) not in ON_TENANT_PORT]


def each(found: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", [pytest.param(item, id=item.id) for item in found])


def guarded(found: list[Operation]) -> list[Operation]:
    return [item for item in found if item.permission is not None]


class Callers:
    """Clients of a port, made once for each set of permissions."""

    def __init__(self, appliance: Appliance, port: Port, tenant: Tenant) -> None:
        self._appliance, self._tenant, self._port = appliance, tenant, port
        self.url = appliance.url if port is Port.admin else appliance.tenant_url
        self._made: dict[frozenset[Permission], httpx.Client] = {}

    def holding(self, permissions: frozenset[Permission]) -> httpx.Client:
        if permissions not in self._made:
            body = {"name": f"caller-{len(self._made)}", "scopes": sorted(permissions)}
            path = "platform/keys" if self._port is Port.admin else "keys"
            secret = done(self._tenant.client.post(path, json=body))["secret"]
            self._made[permissions] = self._appliance.client(secret, url=self.url)
        return self._made[permissions]

    def with_header(self, authorization: str | None) -> httpx.Client:
        client = self._appliance.client("none", url=self.url)
        del client.headers["Authorization"]
        if authorization is not None:
            client.headers["Authorization"] = authorization
        return client


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    done(appliance.client().post("tenants", json={"name": "guarded"}))
    return Tenant(appliance, "guarded")


@pytest.fixture(scope="module")
def on_tenant_port(appliance: Appliance, tenant: Tenant) -> Callers:
    return Callers(appliance, Port.tenant, tenant)


@pytest.fixture(scope="module")
def on_admin_port(appliance: Appliance, tenant: Tenant) -> Callers:
    return Callers(appliance, Port.admin, tenant)


@pytest.fixture(scope="module")
def strangers(appliance: Appliance, tenant: Tenant) -> dict[Port, list[httpx.Client]]:
    """For each port: nobody, someone with a made-up key, and the other port's key."""
    callers = {port: Callers(appliance, port, tenant) for port in Port}
    tenants_key = tenant.key("stranger", scopes=sorted(TENANT_PERMISSIONS))
    platforms_key = (appliance.home / "operator.key").read_text().strip()
    return {
        Port.admin: [callers[Port.admin].with_header(header) for header in _strange(tenants_key)],
        Port.tenant: [callers[Port.tenant].with_header(header) for header in _strange(platforms_key)],
    }


def _strange(others_key: str) -> list[str | None]:
    made_up = "ak_00000000_" + "A" * 43
    return [None, "", "Bearer", f"Bearer {made_up}", f"Basic {others_key}", f"Bearer {others_key}"]


@each(ADMIN)
def test_strangers_are_refused_on_the_admin_port(operation: Operation, strangers: dict[Port, list[httpx.Client]]):
    _refused_to(operation, strangers[Port.admin])


@each(TENANT)
def test_strangers_are_refused_on_the_tenant_port(operation: Operation, strangers: dict[Port, list[httpx.Client]]):
    _refused_to(operation, strangers[Port.tenant])


def _refused_to(operation: Operation, clients: list[httpx.Client]) -> None:
    if operation.id in PUBLIC:
        assert operation.is_public
        return
    assert not operation.is_public
    for client in clients:
        answer = operation.send(client)
        assert answer.status_code == HTTPStatus.UNAUTHORIZED, answer.text
        assert answer.headers["www-authenticate"] == 'Bearer realm="appliance"'
        if operation.method != "HEAD":
            assert answer.json()["code"] == "unauthenticated"


@each(PLATFORM_ONLY)
def test_what_is_for_administrators_does_not_exist_on_the_tenant_port(operation: Operation, on_tenant_port: Callers):
    """404; where another method of the path exists, 405 as for any method that nobody has."""
    answer = operation.send(on_tenant_port.holding(TENANT_PERMISSIONS))
    methods = {method for method, path in ON_TENANT_PORT if path == operation.path}
    expected = HTTPStatus.METHOD_NOT_ALLOWED if methods else HTTPStatus.NOT_FOUND
    assert answer.status_code == expected, answer.text


@each([found for found in TENANT if found.writes and found.id not in PUBLIC])
def test_a_viewer_changes_nothing(operation: Operation, on_tenant_port: Callers):
    answer = operation.send(on_tenant_port.holding(PERMISSIONS[Role.viewer]))
    if operation.id in ABOUT_A_LOGIN:
        assert (answer.status_code, answer.json()["code"]) == (HTTPStatus.BAD_REQUEST, "bad-input")
    else:
        assert (answer.status_code, answer.json()["code"]) == (HTTPStatus.FORBIDDEN, "forbidden")


@each(guarded(TENANT))
def test_one_permission_opens_a_route_on_the_tenant_port(operation: Operation, on_tenant_port: Callers):
    _takes_just_this_permission(operation, on_tenant_port, TENANT_PERMISSIONS)


@each(guarded(ADMIN))
def test_one_permission_opens_a_route_on_the_admin_port(operation: Operation, on_admin_port: Callers):
    _takes_just_this_permission(operation, on_admin_port, frozenset(Permission))


def _takes_just_this_permission(operation: Operation, callers: Callers, everything: frozenset[Permission]) -> None:
    """All but it are refused; it alone is let in, to be told that the object is missing or the body is wrong."""
    needed = Permission(operation.permission)
    answer = operation.send(callers.holding(everything - {needed}))
    assert answer.status_code == HTTPStatus.FORBIDDEN, answer.text
    if operation.method != "HEAD":
        assert needed.value in answer.json()["detail"]
    body = {"no such member": 1} if operation.writes else None
    answer = operation.send(callers.holding(frozenset({needed, Permission.compute_read})), body=body)
    assert answer.status_code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN), answer.text
    assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text


def test_every_permission_guards_something():
    assert {found.permission for found in ADMIN} == {*Permission, None} - {Permission.inference}


def test_permissions_of_the_platform_are_not_asked_for_on_the_tenant_port():
    assert {found.permission for found in TENANT} <= {*TENANT_PERMISSIONS, None}
