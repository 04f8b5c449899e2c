"""One service or replica that cannot be changed must not keep a round from changing the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from appliance.kernel.errors import DatabaseUnavailable, LeaseLost
from appliance.kernel.logging import get_logger
from appliance.services.transitions import Overtaken

log = get_logger(__name__)


@contextmanager
def contained(**subject: str) -> Iterator[None]:
    """Log what goes wrong with `subject` and go on: the next round tries again.

    A lost lease or database concerns the whole round and passes.
    """
    try:
        yield
    except Overtaken:
        return
    except (LeaseLost, DatabaseUnavailable):
        raise
    except Exception:
        log.exception("reconciling.failed", **subject)
