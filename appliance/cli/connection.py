"""Where the appliance is and with which key to ask it.

In this order: `--url`, `--key`, `--ca`, `--tenant`; `APPLIANCE_URL`, `APPLIANCE_KEY`, `APPLIANCE_CA`,
`APPLIANCE_TENANT`; on the host itself, what the running appliance leaves under `APPLIANCE_HOME`: `run/admin.url`,
`operator.key` and `ca.pem`.
"""

from __future__ import annotations

import os
import re
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from appliance.cli.errors import CommandFailed, Refused, Unreachable

_TIMEOUT_S: Final = 60.0
_PAGE: Final = 500
_TENANT_HEADER: Final = "Appliance-Tenant"
_NAMES_HEADER: Final = re.compile(rf"(the header )?{_TENANT_HEADER}")


def home() -> Path:
    return Path(os.environ.get("APPLIANCE_HOME", "var")).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Target:
    """The options as given; what is None is looked up."""

    url: str | None = None
    key: str | None = None
    ca: str | None = None
    tenant: str | None = None

    def connect(self) -> Connection:
        url = self.url or os.environ.get("APPLIANCE_URL") or _local("run/admin.url", "is the appliance running?")
        key = self.key or os.environ.get("APPLIANCE_KEY") or _local("operator.key", "set APPLIANCE_KEY")
        headers = {"Authorization": f"Bearer {key}"}
        if tenant := self.tenant or os.environ.get("APPLIANCE_TENANT"):
            headers[_TENANT_HEADER] = tenant
        return Connection(httpx.Client(base_url=url, headers=headers, verify=self._trust(), timeout=_TIMEOUT_S))

    def _trust(self) -> ssl.SSLContext:
        """The CA that was named; else the one of this host's appliance, if there is one; else the system's."""
        named = self.ca or os.environ.get("APPLIANCE_CA")
        file = Path(named) if named else home() / "ca.pem"
        if named is None and not file.exists():
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=str(file))
        except OSError as error:  # ssl.SSLError is one
            raise CommandFailed(f"{file} is no CA certificate that can be read: {error}") from error


def _local(name: str, hint: str) -> str:
    path = home() / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read ({error.strerror}): {hint}") from error


class Connection:
    """JSON requests to `/api/v1`; an error answer becomes `Refused` with the problem's detail, none `Unreachable`."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def choose_tenant(self, name_or_id: str) -> None:
        """Act on this tenant from now on."""
        self._client.headers[_TENANT_HEADER] = name_or_id

    def choose_platform(self) -> None:
        """Act on no tenant from now on."""
        self._client.headers.pop(_TENANT_HEADER, None)

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        return self.request("POST", path, json=body)

    def create(self, path: str, body: Any) -> Any:
        """A POST under an idempotency key of its own, tried once more where no answer came."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        try:
            return self.request("POST", path, json=body, headers=headers)
        except Unreachable:
            return self.request("POST", path, json=body, headers=headers)

    def patch(self, path: str, body: Any) -> Any:
        return self.request("PATCH", path, json=body)

    def amend(self, path: str, change: Callable[[Any], Any]) -> Any:
        """Change an object by what it is now; refused where somebody else changed it between."""
        answer = self.raw("GET", path)
        return self.request("PATCH", path, json=change(answer.json()), headers={"If-Match": answer.headers["ETag"]})

    def put(self, path: str, body: Any) -> Any:
        return self.request("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def text(self, path: str, **params: Any) -> str:
        return self.raw("GET", path, params=params).text

    def pages(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[Any]:
        """Every item of a list, page after page, at most `limit`."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = self.get(path, limit=size, cursor=cursor, **params)
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def lines(self, path: str, **params: Any) -> Iterator[str]:
        """The lines of an answer of any length, as they arrive."""
        query = {name: value for name, value in params.items() if value is not None}
        try:
            with self._client.stream("GET", _path(path), params=query) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                yield from answer.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def exists(self, path: str) -> bool:
        return self.raw("GET", path, accept=(404,)).status_code != httpx.codes.NOT_FOUND

    def request(self, method: str, path: str, **options: Any) -> Any:
        answer = self.raw(method, path, **options)
        return answer.json() if answer.content else None

    def raw(self, method: str, path: str, *, accept: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, _path(path), **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.is_error and answer.status_code not in accept:
            raise _refusal(answer)
        return answer

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(f"{self._client.base_url} does not answer: {str(error) or type(error).__name__}")


def segment(text: str) -> str:
    """A name or id as one segment of a path."""
    return quote(text, safe="")


def _path(path: str) -> str:
    return f"/api/v1/{path}"


def _refusal(answer: httpx.Response) -> Refused:
    """The problem in words for someone at a command line, who sends options and not headers."""
    try:
        problem = answer.json()
        detail, code = _NAMES_HEADER.sub("--tenant", problem["detail"]), str(problem["code"])
    except (ValueError, KeyError, TypeError):
        return Refused(
            f"the server answered {answer.status_code}: {answer.text[:300]}", status=answer.status_code, code=""
        )
    request_id = answer.headers.get("x-request-id", "-")
    return Refused(f"{detail} [{code}, request {request_id}]", status=answer.status_code, code=code)
