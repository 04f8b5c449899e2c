"""The two Litestar applications, one for each port. Neither owns a resource: the composition root does."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Litestar, Router
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler

from appliance import __version__
from appliance.api.context import Context, Port
from appliance.api.middleware import RequestContext
from appliance.api.parameters import provide_page
from appliance.api.problems import HANDLERS
from appliance.api.routes import admin_routes, public_routes, tenant_routes
from appliance.api.work import provide_work

TITLES = {Port.admin: "AI compute appliance: administration", Port.tenant: "AI compute appliance: tenants"}


def create(context: Context) -> Litestar:
    """The application of `context.port`, ready to be served."""
    guarded = [*tenant_routes(), *(admin_routes() if context.port is Port.admin else ())]
    return Litestar.from_config(
        AppConfig(
            route_handlers=[
                Router(
                    "/api/v1",
                    route_handlers=_checked(guarded),
                    dependencies={
                        "work": Provide(provide_work),
                        "page": Provide(provide_page),
                    },
                ),
                *public_routes(),
            ],
            exception_handlers=HANDLERS,
            middleware=[RequestContext],
            state=State({"context": context}),
            openapi_config=OpenAPIConfig(
                title=TITLES[context.port],
                version=__version__,
                path="/api",
                render_plugins=[JsonRenderPlugin()],
                use_handler_docstrings=True,
            ),
            request_max_body_size=None,
            pdb_on_exception=False,
            debug=False,
        )
    )


def _checked(handlers: Sequence[ControllerRouterHandler]) -> list[ControllerRouterHandler]:
    """Refuse to start with a route that says nothing about who may call it."""
    for handler in handlers:
        opt = getattr(handler, "opt", {})
        if not {"permission", "public", "any_actor"} & set(opt):
            raise AssertionError(f"{handler} names no permission")
    return list(handlers)
