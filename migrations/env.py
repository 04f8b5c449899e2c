"""Alembic's environment; connection and tables come from `appliance.app`."""

from alembic import context

from appliance.app.schema import metadata
from appliance.kernel.tables import UtcDateTime


def render_item(kind: str, item: object, _: object) -> str | bool:
    """Migrations stand on SQLAlchemy's own types: the project's may change under them."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_item=render_item,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
