"""The browsable page, the documents and the pages about errors, as a browser gets them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from html.parser import HTMLParser

import httpx
import pytest

import appliance as package
import gpu
import tenants
from appliance.api.context import Port
from appliance.api.openapi import document
from appliance.api.reference import errors_by_code
from appliance.kernel.errors import ApplianceError
from tests.api.specimens import operations
from tests.support.appliance import Appliance

OWN = re.compile(r"/|#|https://localhost:\d+/")


@pytest.fixture(scope="module", params=list(Port))
def site(appliance: Appliance, request: pytest.FixtureRequest) -> tuple[Port, httpx.Client]:
    """A port, and a browser that nobody signed in with."""
    url = appliance.url if request.param is Port.admin else appliance.tenant_url
    client = appliance.client(key="none", url=url)
    client.headers.pop("Authorization")
    client.base_url = httpx.URL(url)
    return request.param, client


def test_the_document_is_served(site: tuple[Port, httpx.Client]):
    port, client = site
    answer = client.get("/api/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document(port)


def test_the_page_shows_every_operation(site: tuple[Port, httpx.Client]):
    port, client = site
    page = _Page(client.get("/api").text)
    assert {found.id for found in operations(document(port))} <= page.ids
    assert {f"type-{name}" for name in document(port)["components"]["schemas"]} <= page.ids


def test_the_tenants_page_shows_nothing_of_the_platform(site: tuple[Port, httpx.Client]):
    port, client = site
    assert ("create_tenant" in client.get("/api").text) == (port is Port.admin)


@pytest.mark.parametrize("path", ["/api", "/errors", "/errors/gateway-full"])
def test_pages_need_nothing_from_elsewhere(site: tuple[Port, httpx.Client], path: str):
    _, client = site
    answer = client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    page = _Page(answer.text)
    assert page.inline == [], "the policy admits neither scripts nor styles within a page"
    for target in page.targets:
        assert OWN.match(target), target
        if target.startswith("/"):
            assert client.get(target.partition("#")[0]).is_success, target
        else:
            assert target[1:] in page.ids, target


def test_the_stylesheet_needs_nothing_from_elsewhere(site: tuple[Port, httpx.Client]):
    _, client = site
    answer = client.get("/api/style.css")
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "prefers-color-scheme: dark" in answer.text
    assert not re.search(r"url\(|@import|//", answer.text)


def _all_errors() -> dict[str, type[ApplianceError]]:
    for root in (package, tenants, gpu):
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return errors_by_code()


@pytest.mark.parametrize("code", _all_errors())
def test_every_error_has_a_page(site: tuple[Port, httpx.Client], code: str):
    _, client = site
    answer = client.get(f"/errors/{code}")
    assert answer.is_success, f"docs/errors/{code}.md is missing"
    assert f"<h1>{code}</h1>" in answer.text
    shown = re.search(r"\((\d{3})\)", answer.text)  # what no request is answered with shows none
    assert shown is None or int(shown[1]) == errors_by_code()[code].status


def test_codes_are_unique():
    classes = list(_all_errors()[ApplianceError.code].tree())
    doubled = [found for found in classes if errors_by_code()[found.code] is not found]
    assert doubled == []


@pytest.mark.parametrize("code", ["nothing", "..%2f..%2fREADME", "%2e%2e", "GATEWAY-FULL", "a" * 100])
def test_other_pages_do_not_exist(site: tuple[Port, httpx.Client], code: str):
    _, client = site
    answer = client.get(f"/errors/{code}")
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.json()["code"] == "not-found"


def test_what_does_not_exist_has_a_request_id_too(site: tuple[Port, httpx.Client]):
    _, client = site
    answer = client.get("/nowhere", headers={"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["request_id"] == "mine"


class _Page(HTMLParser):
    """What a page refers to, defines and has inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "iframe", "object"):
            self.inline.append(tag)
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.add(value)
            elif name == "id" and value is not None:
                self.ids.add(value)
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
