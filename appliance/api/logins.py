"""Routes of logging in and out, and of who one is."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.authentication import COOKIE, require_own_origin
from appliance.api.context import Port, context_of
from appliance.api.problems import problems
from appliance.api.work import open_work
from appliance.kernel.errors import BadInput, Unavailable
from tenants import identity, logins
from tenants.errors import TooManyAttempts, UnsuitablePassword
from tenants.schemas import Credentials, Me, PasswordChange
from tenants.work import Work

TAGS = ["Logins"]
_START: Final = {Port.admin: logins.log_in_administrator, Port.tenant: logins.log_in_member}


class LoggedIn(msgspec.Struct, frozen=True):
    """`csrf_token` goes into the header `X-CSRF-Token` of every write; with `must_change_password` do that first."""

    csrf_token: str
    must_change_password: bool


@post("/logins", public=True, tags=TAGS, responses=problems(TooManyAttempts, Unavailable))
async def log_in(request: Request[Any, Any, Any], data: JSONBody[Credentials]) -> Response[LoggedIn]:
    """Log in with name and password; the answer sets the cookie of the login."""
    require_own_origin(request)
    context = context_of(request)
    request_id = request.scope["state"].get("request_id")
    started = await _START[context.port](context.parts.tenancy.login_desk, data, request_id=request_id)
    return Response(
        LoggedIn(started.csrf_token, started.must_change_password),
        cookies=[_cookie(started.token, started.lifetime_s)],
    )


@delete("/logins/current", any_actor=True, password_change=True, status_code=204, tags=TAGS, responses=problems())
async def log_out(request: Request[Any, Any, Any], work: NamedDependency[Work]) -> Response[None]:
    """End this login."""
    await logins.log_out(work, _token(request))
    return Response(None, status_code=204, cookies=[_cookie("", 0)])


@delete("/logins", any_actor=True, password_change=True, status_code=204, tags=TAGS, responses=problems())
async def log_out_everywhere(request: Request[Any, Any, Any], work: NamedDependency[Work]) -> Response[None]:
    """End all logins of the user."""
    _token(request)
    await logins.log_out_everywhere(work)
    return Response(None, status_code=204, cookies=[_cookie("", 0)])


@get("/me", any_actor=True, password_change=True, tags=TAGS, responses=problems())
async def get_me(request: Request[Any, Any, Any], work: NamedDependency[Work]) -> Me:
    """Who is asking: permissions, tenants and roles, and the CSRF token of the login."""
    token = None if "Authorization" in request.headers else request.cookies.get(COOKIE)
    return await identity.describe(work, token)


@put(
    "/me/password",
    any_actor=True,
    password_change=True,
    unaudited=True,
    status_code=204,
    tags=TAGS,
    responses=problems(UnsuitablePassword, TooManyAttempts, Unavailable),
)
async def change_password(request: Request[Any, Any, Any], data: JSONBody[PasswordChange]) -> None:
    """Change one's own password; one's other logins end. The change is audited where it is made."""
    async with open_work(request) as work:  # closed before the password is verified
        actor = work.actor
    token = _token(request)
    await logins.change_password(context_of(request).parts.tenancy.login_desk, actor, token, data)


def _token(request: Request[Any, Any, Any]) -> str:
    token = request.cookies.get(COOKIE)
    if not token or "Authorization" in request.headers:
        raise BadInput("this is about a login, and the request was not made with one")
    return token


def _cookie(token: str, lifetime_s: int) -> Cookie:
    return Cookie(COOKIE, path="/", value=token, max_age=lifetime_s, secure=True, httponly=True, samesite="strict")


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [log_in, log_out, log_out_everywhere, get_me, change_password]
