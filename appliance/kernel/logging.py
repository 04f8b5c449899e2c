"""Structured logs: JSON lines to a file or a pipe, colours on a terminal.

An event is a constant past-tense name (`replica.started`), data are keyword arguments. Request, tenant and actor
are bound at the boundary (`bind`) and cleared after. Secrets never reach a logger; as a second line, members with
a telling name are masked.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

_TELLING = ("password", "secret", "token", "authorization", "api_key", "cookie")
_HARMLESS = ("tokens", "token_id")


def configure(*, level: str, json: bool, stream: TextIO | None = None) -> None:
    """Set up structlog and route the libraries' `logging` through it."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if json else structlog.processors.ExceptionPrettyPrinter(),
        _mask,
    ]
    out = stream or sys.stderr
    renderer = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _mask(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in event:
        lowered = name.lower()
        if any(word in lowered for word in _TELLING) and not any(word in lowered for word in _HARMLESS):
            event[name] = "***"
    return event


def get_logger(name: str) -> Any:
    return structlog.get_logger(name)


bind = structlog.contextvars.bind_contextvars
clear = structlog.contextvars.clear_contextvars
