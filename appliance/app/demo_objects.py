"""The demo's objects in the database, each made where it is missing: tenant, member, model, key, service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.app.build import Built
from appliance.app.defaults import quota_defaults
from appliance.gateway.tables import ListenerRow
from appliance.kernel.clock import Clock
from appliance.kernel.crypto import Passwords, sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import ApplianceError, NotFound
from appliance.kernel.files import write_secret
from appliance.kernel.ids import TenantId
from appliance.kernel.settings import LimitSettings
from appliance.models import operations as models
from appliance.models import queries as model_queries
from appliance.models import versions
from appliance.models.schemas import NewImport, NewModel
from appliance.models.states import VersionState
from appliance.services.creation import create_service
from appliance.services.schemas import CreateService
from appliance.services.tables import ServiceRow
from appliance.services.users import services_elsewhere
from gpu.tables import FlavorRow
from tenants import keys, members, tenancy
from tenants.actors import system
from tenants.permissions import MemberRole
from tenants.queries.keys import key_named
from tenants.schemas import NewKey, NewMember, NewTenant, Trust
from tenants.scope import PLATFORM, TenantScope
from tenants.work import Work

NAME: Final = "demo"
SERVICE: Final = "chat"
VERSION: Final = "main"
RUNTIME: Final = "transformers"
MEMBER: Final = "demo-admin"
T = TypeVar("T")


class DemoFailed(ApplianceError):
    code = "demo-failed"
    title = "The demo could not be set up"


class DemoObjects:
    """Each `ensure_...` is one transaction and idempotent."""

    def __init__(self, database: Database, built: Built, passwords: Passwords, clock: Clock) -> None:
        self._database, self._built, self._passwords, self._clock = database, built, passwords, clock

    async def ensure_tenant(self, limits: LimitSettings) -> tuple[TenantId, str | None]:
        """The tenant, and its administrator's one-time password if both were made just now."""

        async def ensure(work: Work) -> tuple[TenantId, str | None]:
            try:
                return TenantId((await tenancy.resolve_tenant(work.session, PLATFORM, NAME)).id), None
            except NotFound:
                quotas = quota_defaults(limits, Trust.trusted)
                tenant_id = TenantId(
                    (await tenancy.create_tenant(work, NewTenant(name=NAME, trust=Trust.trusted), quotas)).id
                )
            member = Work(work.session, system(NAME, tenant_id), self._clock)
            new = NewMember(name=MEMBER, role=MemberRole.tenant_admin)
            added = await members.add_member(member, new, self._passwords)
            return tenant_id, added.one_time_password

        return await self._within(None, ensure)

    async def has_model(self, tenant_id: TenantId) -> bool:
        """Whether the model is imported; raises once the import has failed."""
        async with self._database.read() as session:
            state = await self._model_state(session, tenant_id)
        if state is VersionState.failed:
            raise DemoFailed(f"the import of the demo model failed; `appliance model show {NAME} --tenant {NAME}`")
        return state is VersionState.normal

    async def order_model(self, tenant_id: TenantId, folder: Path) -> bool:
        """Create the model and order the import of `folder`, unless they are there; whether there is one to await."""

        async def order(work: Work) -> bool:
            state = await self._model_state(work.session, tenant_id)
            if state in (VersionState.normal, VersionState.importing):
                return state is VersionState.importing
            try:
                model = await models.find_own_model(work, NAME)
            except NotFound:
                new = NewModel(name=NAME, description="A demo: 2.7 million parameters, a hundred answers by heart")
                model = await models.create_model(work, new)
            import_ = NewImport(directory=str(folder), version=VERSION)
            await versions.import_directory(work, self._built.parts.models, model, import_)
            return True

        return await self._within(tenant_id, order)

    async def ensure_key(self, tenant_id: TenantId, path: Path) -> None:
        """The demo key, whose secret is in `path` (0600); a lost file or key is replaced."""

        async def ensure(work: Work) -> str | None:
            row = await key_named(work.session, tenant_id, NAME)
            secret = path.read_text(encoding="utf-8").strip() if path.exists() else ""
            if row is not None and row.revoked_at is None and row.secret_sha256 == sha256_hex(secret):
                return None
            if row is not None:
                if row.revoked_at is None:
                    await keys.revoke_key(work, row.id)
                await keys.delete_key(work, row.id)
            return (await keys.create_key(work, NewKey(name=NAME), services_elsewhere)).secret

        if (made := await self._within(tenant_id, ensure)) is not None:
            write_secret(path, f"{made}\n".encode())

    async def ensure_service(self, tenant_id: TenantId) -> None:
        async def ensure(work: Work) -> None:
            if await self._service(work.session, tenant_id) is None:
                flavor = await _smallest_without_devices(work.session)
                request = CreateService(
                    name=SERVICE, model=NAME, runtime=RUNTIME, flavor=flavor, description="The demo service"
                )
                await create_service(work, self._built.parts.publishing, request)

        await self._within(tenant_id, ensure)

    async def service(self, tenant_id: TenantId) -> tuple[ServiceRow, int | None] | None:
        """The service and its port, as they are now."""
        async with self._database.read() as session:
            row = await self._service(session, tenant_id)
            if row is None:
                return None
            return row, await session.scalar(select(ListenerRow.port).where(ListenerRow.service_id == row.id))

    async def _within(self, tenant_id: TenantId | None, do: Callable[[Work], Awaitable[T]]) -> T:
        async with self._database.write() as session:
            return await do(Work(session, system(NAME, tenant_id), self._clock))

    async def _service(self, session: AsyncSession, tenant_id: TenantId) -> ServiceRow | None:
        query = select(ServiceRow).where(ServiceRow.tenant_id == tenant_id, ServiceRow.name == SERVICE)
        return (await session.scalars(query)).one_or_none()

    async def _model_state(self, session: AsyncSession, tenant_id: TenantId) -> VersionState | None:
        try:
            model = await model_queries.find_model(TenantScope(tenant_id), session, NAME)
            version = await model_queries.find_version(session, model, VERSION)
        except NotFound:
            return None
        return VersionState(version.state)


async def _smallest_without_devices(session: AsyncSession) -> str | None:
    """The demo's model is too small to hold a device; None where there is no such flavor."""
    without = select(FlavorRow.id).where(FlavorRow.devices == 0)
    return await session.scalar(without.order_by(FlavorRow.memory_bytes, FlavorRow.id).limit(1))
