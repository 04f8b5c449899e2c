"""The two applications, made once in each test process: to make one takes a quarter of a second, to ask it little."""

from __future__ import annotations

from typing import Final

from litestar import Litestar

from appliance.api.apps import create
from appliance.api.context import Context, Port

_made: Final[dict[Port, Litestar]] = {}


def application(context: Context) -> Litestar:
    """The application of the context's port. It keeps nothing but the context, and the last one given counts: two
    contexts of one port at the same time are what `create` is for.
    """
    if context.port not in _made:
        _made[context.port] = create(context)
    app = _made[context.port]
    app.state["context"] = context
    return app
