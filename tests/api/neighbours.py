"""Two tenants side by side: one whose objects all bear a canary, one that must never see a feather of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from tenants.permissions import TENANT_PERMISSIONS
from tests.support.appliance import Appliance, Tenant, done
from tests.support.http import PLAIN
from tests.support.models import write_tiny_model
from tests.support.waiting import eventually

CANARY: Final = "canary"
_IDS: Final = re.compile(r"\b(?:bdg|grt|ten|usr|key|mdl|ver|upl|svc|dep|rpl|lsn|evt|aud|opr)_[0-9a-z]{20}\b")
_BYTES: Final = b"canary bytes"


class Neighbour:
    """A tenant with an object of every kind that a tenant can own.

    `owned` has, for each parameter of a path that names such an object, every way to name the tenant's.
    """

    def __init__(self, appliance: Appliance, name: str) -> None:
        self.name = name
        operator = appliance.client()
        self.id: str = done(operator.post("tenants", json={"name": name, "display_name": f"{name} display"}))["id"]
        self.tenant = Tenant(appliance, name)
        self.as_operator = self.tenant.client
        self.admin = appliance.client(
            self.tenant.key(f"{name}-admin", scopes=sorted(TENANT_PERMISSIONS)), url=appliance.tenant_url
        )
        self.owned: Mapping[str, list[str]] = {
            "user": self._member(),
            "key": self._key(),
            "model": self._model(appliance),
            "version": self._tag(),
            "service": self._service(),
            "upload": (upload := self._upload()),
            "path": [f"{name}-file.safetensors"],
            "budget": self._budgets(),
            "grant": self._grants(operator),
            "reservation": [],  # of devices, of which this machine has none: see tests/gpu/test_reservation_routes.py
        }
        self.upload = upload[0]
        self._use()

    def _member(self) -> list[str]:
        body = {"name": f"{self.name}-member", "role": "developer", "display_name": f"{self.name} member"}
        added = done(self.as_operator.post("members", json=body))
        self.password: str = added["one_time_password"]
        return [added["member"]["name"], added["member"]["user_id"]]

    def _key(self) -> list[str]:
        made = done(self.as_operator.post("keys", json={"name": f"{self.name}-key"}))
        self.secret: str = made["secret"]
        return [made["key"]["name"], made["key"]["id"]]

    def _model(self, appliance: Appliance) -> list[str]:
        name = f"{self.name}-model"
        self.tenant.import_model(name, write_tiny_model(appliance.models / self.name))
        changed = done(self.as_operator.patch(f"models/{name}", json={"description": f"{self.name} described"}))
        return [name, changed["id"]]

    def _tag(self) -> list[str]:
        model, tag = f"{self.name}-model", f"{self.name}-tag"
        made = done(self.as_operator.post(f"models/{model}/versions/main/tags", json={"name": tag}))
        path = f"models/{model}/versions/{tag}"
        eventually(lambda: done(self.as_operator.get(path))["state"] == "normal", message="the tag is there")
        main = done(self.as_operator.get(f"models/{model}/versions/main"))
        return [tag, made["id"], main["id"]]

    def _service(self) -> list[str]:
        name = f"{self.name}-service"
        self.tenant.publish(
            name,
            model=f"{self.name}-model",
            served_model=f"{self.name}-served",
            description=f"{self.name} described",
            defaults={"system_prompt": f"{self.name} prompt"},
        )
        found = self.tenant.until(name, "ready")
        self.url: str = found["url"]
        return [name, found["id"]]

    def _grants(self, operator: httpx.Client) -> list[str]:
        """Of a pool and a gateway that are everybody's as well: nothing of the tests depends on them."""
        return [
            done(operator.post("grants", json={"tenant": self.name, "kind": kind, "target": "default"}))["id"]
            for kind in ("pool", "gateway")
        ]

    def _budgets(self) -> list[str]:
        """Of the key, of the service and of the tenant itself."""
        subjects = {"key": f"{self.name}-key", "service": f"{self.name}-service", "tenant": self.name}
        return [
            done(self.as_operator.post("budgets", json={kind: subject, "tokens": 10**9}))["id"]
            for kind, subject in subjects.items()
        ]

    def _upload(self) -> list[str]:
        file = {
            "path": f"{self.name}-file.safetensors",
            "size": len(_BYTES),
            "sha256": hashlib.sha256(_BYTES).hexdigest(),
        }
        body = {"files": [file], "version": f"{self.name}-upload"}
        return [done(self.as_operator.post(f"models/{self.name}-model/uploads", json=body))["id"]]

    def _use(self) -> None:
        """One request through the gateway, so that there is usage."""
        body = {"model": f"{self.name}-served", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 2}
        headers = {"Authorization": f"Bearer {self.secret}"}

        def answered() -> bool:
            return PLAIN.post(f"{self.url}/chat/completions", json=body, headers=headers).is_success

        eventually(answered, message="the gateway knows the key")
        eventually(lambda: done(self.as_operator.get("usage/records"))["items"], 15, message="the usage is recorded")

    def names(self) -> Iterator[str]:
        """Everything that names the tenant or something of it."""
        yield from (self.name, self.id)
        for values in self.owned.values():
            yield from values


def canaries(texts: list[str], *, shared: str) -> set[str]:
    """The canary and every id of tenants' objects in what the owner is shown, but for those that others may see."""
    found = {identifier for text in texts for identifier in _IDS.findall(text)}
    return {CANARY} | (found - set(_IDS.findall(shared)))


def leaks(answer: httpx.Response, feathers: set[str], sent: Any) -> set[str]:
    """Which feathers an answer shows that the caller did not send."""
    told = f"{answer.request.url} {sent}"
    shown = f"{answer.text} {dict(answer.headers)}"
    return {feather for feather in feathers if feather in shown and feather not in told}
