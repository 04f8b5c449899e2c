"""From a request to an `Actor`: a bearer key, or the console's cookie with its CSRF token. Denied by default."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from litestar import Request
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.api.context import Context, Port
from appliance.kernel import crypto
from appliance.kernel.errors import Forbidden, Unauthenticated
from tenants.actors import Actor, ActorKind
from tenants.authentication import authenticate_key, authenticate_login
from tenants.scope import NOWHERE

COOKIE = "__Host-appliance"
TENANT_HEADER = "Appliance-Tenant"
CSRF_HEADER = "X-CSRF-Token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def authenticate(session: AsyncSession, context: Context, request: Request[Any, Any, Any]) -> Actor:
    """Who asks, with the permission that the route demands; raises `Unauthenticated` or `Forbidden`."""
    request_id = request.scope["state"].get("request_id")
    opt = request.route_handler.opt
    if "public" in opt:
        return Actor(ActorKind.system, "anonymous", "anonymous", NOWHERE.tenant_id, frozenset(), request_id)
    chosen = request.headers.get(TENANT_HEADER)
    platform = context.port is Port.admin
    sightings = context.parts.tenancy.sightings
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        actor = await authenticate_key(
            session,
            context.clock,
            _bearer(authorization),
            request_id=request_id,
            chosen_tenant=chosen,
            platform=platform,
            sightings=sightings,
        )
    elif token := request.cookies.get(COOKIE):
        actor, csrf_token = await authenticate_login(
            session,
            context.clock,
            token,
            request_id=request_id,
            chosen_tenant=chosen,
            platform=platform,
            allow_password_change="password_change" in opt,
            sightings=sightings,
        )
        _require_own_page(request, csrf_token)
    else:
        raise Unauthenticated("send an API key as `Authorization: Bearer ...` or sign in")
    if "any_actor" not in opt:
        actor.require(opt["permission"])
    return actor


def _bearer(header: str) -> str:
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("the Authorization header must be `Bearer <key>`")
    return secret.strip()


def _require_own_page(request: Request[Any, Any, Any], csrf_token: str) -> None:
    """A cookie alone may not write: the CSRF token must come along, and the Origin, where sent, be ours."""
    if request.method in _SAFE:
        return
    if not crypto.same(request.headers.get(CSRF_HEADER, ""), csrf_token):
        raise Forbidden(f"the header {CSRF_HEADER} is missing or wrong; read it from GET /api/v1/me")
    require_own_origin(request)


def require_own_origin(request: Request[Any, Any, Any]) -> None:
    """Raise `Forbidden` where a browser says that the request comes from a page of another origin."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden("the request comes from another origin")
