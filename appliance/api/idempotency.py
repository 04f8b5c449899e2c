"""`Idempotency-Key` on POST: one effect and one answer, kept for 24 hours (invariant I10).

The key's row is written in the same transaction as the effect. A second request with the same key and body gets
the first answer again with `Idempotency-Replayed: true`; another body under the key is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from appliance.kernel.errors import BadInput, IdempotencyKeyReused
from appliance.kernel.tables import IdempotencyRow
from tenants.work import Work

T = TypeVar("T")
LONGEST_KEY = 255


async def once(
    request: Request[Any, Any, Any],
    work: Work,
    create: Callable[[], Awaitable[T]],
    *,
    status: int = 201,
    shown_once: str | None = None,
) -> Response[T]:
    """Answer with what `create` returned the first time, but for its member `shown_once`.

    What is kept for a repetition lies in the database, which no secret may.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return Response(await create(), status_code=status)
    if not 0 < len(key) <= LONGEST_KEY:
        raise BadInput(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters")
    scope = f"{work.scope.tenant_id or 'platform'}:{work.actor.id}"
    digest = await _digest(request)
    if not await _claim(work, scope, key, digest):
        return await _replay(work, scope, key, digest)
    answer = await create()
    row = await work.session.get_one(IdempotencyRow, (scope, key))
    row.status, row.body = status, _kept(answer, shown_once).decode()
    return Response(answer, status_code=status)


def _kept(answer: Any, shown_once: str | None) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(answer, **{shown_once: None}) if shown_once else answer)


async def _digest(request: Request[Any, Any, Any]) -> str:
    body = await request.body()
    return hashlib.sha256(b"\0".join((request.method.encode(), request.scope["path"].encode(), body))).hexdigest()


async def _claim(work: Work, scope: str, key: str, digest: str) -> bool:
    """Insert the row unless it is there; on PostgreSQL this waits for a concurrent request with the same key."""
    bind = work.session.get_bind()
    insert = sqlite.insert if bind.dialect.name == "sqlite" else postgresql.insert
    values = {
        "scope": scope,
        "key": key,
        "request_sha256": digest,
        "status": 0,
        "body": "",
        "headers": {},
        "created_at": work.now(),
    }
    inserted = await work.session.execute(insert(IdempotencyRow).values(values).on_conflict_do_nothing())
    return bool(inserted.rowcount)  # type: ignore[attr-defined]  # the result of an INSERT is a CursorResult


async def _replay(work: Work, scope: str, key: str, digest: str) -> Response[Any]:
    query = select(IdempotencyRow).where(IdempotencyRow.scope == scope, IdempotencyRow.key == key)
    row = (await work.session.execute(query)).scalar_one()
    if row.request_sha256 != digest:
        raise IdempotencyKeyReused(f"{key!r} was used for another request; choose a new key")
    work.session.info["audited"] = True  # the first request left the audit row
    return Response(
        msgspec.Raw(row.body.encode()),
        status_code=row.status,
        headers={"Idempotency-Replayed": "true"},
        media_type="application/json",
    )
