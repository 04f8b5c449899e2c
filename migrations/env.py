"""Alembic's environment: the connection comes from `appliance.app.migrating`, the tables from `appliance.app.schema`."""

from alembic import context

from appliance.app.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
