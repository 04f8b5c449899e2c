"""Errors of the history."""

from __future__ import annotations

from appliance.kernel.errors import Unavailable


class HistoryUnavailable(Unavailable):
    code = "history-unavailable"
    title = "The history cannot be read"
