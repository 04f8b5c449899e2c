"""Rows of gateways and listeners. The database itself guards the ports.

* I2: `UNIQUE (node, port)` gives a port of a machine to one listener, whichever gateway it belongs to.
* A gateway has at most 16 ports, none of them ephemeral, and a service has at most one listener.

`listeners.service_id` is no foreign key, because services are a layer above: who creates or deletes a service
allocates or releases its listener in the same transaction.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Id, Instant, Name


class GatewayRow(Base):
    """A logical gateway: an address of a node and a range of ports on it. `access`: whether every tenant may use it,
    or those with a grant.
    """

    __tablename__ = "gateways"
    __table_args__ = (
        UniqueConstraint("node", "first_port"),
        CheckConstraint("port_count BETWEEN 1 AND 16", name="at_most_16_ports"),
        CheckConstraint("first_port >= 1 AND first_port + port_count <= 65536", name="ports_exist"),
        CheckConstraint("first_port + port_count <= 32768 OR first_port > 60999", name="not_ephemeral"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    host: Mapped[Name]
    node: Mapped[Name]
    first_port: Mapped[int]
    port_count: Mapped[int]
    state: Mapped[Name]
    access: Mapped[str] = mapped_column(String(16), default="public", server_default="public")
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]

    @property
    def ports(self) -> range:
        return range(self.first_port, self.first_port + self.port_count)


class ListenerRow(Base):
    """One port of a gateway. Without a service it is the gateway's shared one, of which there is at most one: its
    requests are told apart by their path or the model they name.
    """

    __tablename__ = "listeners"
    __table_args__ = (
        UniqueConstraint("node", "port"),
        UniqueConstraint("service_id"),
        CheckConstraint("service_id IS NULL OR tenant_id IS NOT NULL", name="service_has_tenant"),
        Index(
            "uq_listeners_shared",
            "gateway_id",
            unique=True,
            postgresql_where=text("service_id IS NULL"),
            sqlite_where=text("service_id IS NULL"),
        ),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    gateway_id: Mapped[Id] = mapped_column(ForeignKey("gateways.id"), index=True)
    node: Mapped[Name]
    port: Mapped[int]
    tenant_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("tenants.id"), index=True)
    service_id: Mapped[str | None] = mapped_column(String(24))
    created_at: Mapped[Instant]
