"""Pages of a list in descending id order: `limit` and an opaque `cursor`, stable while rows come and go."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Generic, TypeVar, TypeVarTuple

import msgspec
from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import InstrumentedAttribute

from appliance.kernel.errors import BadInput

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500


class Page(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]
    next_cursor: str | None


class PageRequest(msgspec.Struct, frozen=True):
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def apply(self, query: Select[*Ts], key: InstrumentedAttribute[Any] | ColumnElement[Any]) -> Select[*Ts]:
        """Order `query` by `key` (unique, descending) from the cursor on, one row more than the page."""
        if self.cursor is not None:
            query = query.where(key < self.last())
        return query.order_by(key.desc()).limit(self.limit + 1)

    def page(self, rows: list[T], keys: list[str]) -> Page[T]:
        """Cut what `apply` fetched; `keys` are the rows' keys, in the same order."""
        more = len(rows) > self.limit
        cursor = base64.urlsafe_b64encode(keys[self.limit - 1].encode()).decode() if more else None
        return Page(items=rows[: self.limit], next_cursor=cursor)

    def last(self) -> str:
        """The key that the page begins after; `BadInput` for a cursor that no list made."""
        try:
            return base64.urlsafe_b64decode((self.cursor or "").encode()).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError) as error:
            raise BadInput(f"cursor {self.cursor!r} was not made by this list") from error
