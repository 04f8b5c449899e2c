"""Where the appliance is and with which key to ask it.

In this order: `--url`, `--key`, `--ca`, `--tenant`; `APPLIANCE_URL`, `APPLIANCE_KEY`, `APPLIANCE_CA`,
`APPLIANCE_TENANT`; on the host itself, what the running appliance leaves under `APPLIANCE_HOME`: `run/admin.url`,
`operator.key` and `ca.pem`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from appliance.cli.errors import CommandFailed

_TIMEOUT_S = 60.0
_PAGE = 500


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
        ca = self.ca or os.environ.get("APPLIANCE_CA") or str(home() / "ca.pem")
        headers = {"Authorization": f"Bearer {key}"}
        if tenant := self.tenant or os.environ.get("APPLIANCE_TENANT"):
            headers["Appliance-Tenant"] = tenant
        trust = ssl.create_default_context(cafile=ca) if Path(ca).exists() else ssl.create_default_context()
        return Connection(httpx.Client(base_url=url, headers=headers, verify=trust, timeout=_TIMEOUT_S))


def _local(name: str, hint: str) -> str:
    path = home() / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read ({error.strerror}): {hint}") from error


class Connection:
    """JSON requests to `/api/v1`; an error answer becomes `CommandFailed` with the problem's detail."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.request("POST", path, json=body, headers=headers)

    def patch(self, path: str, body: Any) -> Any:
        return self.request("PATCH", path, json=body)

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

    def exists(self, path: str) -> bool:
        return self.raw("GET", path, accept=(404,)).status_code != httpx.codes.NOT_FOUND

    def request(self, method: str, path: str, **options: Any) -> Any:
        answer = self.raw(method, path, **options)
        return answer.json() if answer.content else None

    def raw(self, method: str, path: str, *, accept: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, f"/api/v1/{path}", **options)
        except httpx.TransportError as error:
            raise CommandFailed(f"{self._client.base_url} does not answer: {error}") from error
        if answer.is_error and answer.status_code not in accept:
            raise CommandFailed(_explain(answer))
        return answer


def segment(text: str) -> str:
    """A name or id as one segment of a path."""
    return quote(text, safe="")


def _explain(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"{problem['detail']} [{problem['code']}, request {answer.headers.get('x-request-id', '-')}]"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}: {answer.text[:300]}"
