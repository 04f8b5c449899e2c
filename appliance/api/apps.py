"""The two Litestar applications, one for each port. Neither owns a resource: the composition root does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from litestar import Litestar, Router
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from appliance.api import reference
from appliance.api.context import Context
from appliance.api.middleware import RequestContext
from appliance.api.openapi import BASE, handlers
from appliance.api.parameters import provide_page
from appliance.api.problems import HANDLERS
from appliance.api.work import provide_work

LARGEST_BODY: Final = 4 * 1024 * 1024
"""Bytes; bodies are read before it is known who sends them. Only chunks of an upload may be larger."""


def create(context: Context) -> Litestar:
    """The application of `context.port`, ready to be served."""
    app = Litestar.from_config(
        AppConfig(
            route_handlers=[
                Router(
                    BASE,
                    route_handlers=_checked(handlers(context.port)),
                    dependencies={
                        "work": Provide(provide_work),
                        "page": Provide(provide_page),
                    },
                ),
                *reference.public_routes(),
            ],
            exception_handlers=HANDLERS,
            state=State({"context": context}),
            openapi_config=None,
            request_max_body_size=LARGEST_BODY,
            pdb_on_exception=False,
            debug=False,
        )
    )
    app.asgi_handler = RequestContext(app.asgi_handler)  # around the router too: a 404 has an id and headers as well
    return app


def _checked(handlers: Sequence[ControllerRouterHandler]) -> list[ControllerRouterHandler]:
    """Refuse to start with a route that says nothing about who may call it."""
    for handler in handlers:
        opt = getattr(handler, "opt", {})
        if not {"permission", "public", "any_actor"} & set(opt):
            raise AssertionError(f"{handler} names no permission")
    return list(handlers)
