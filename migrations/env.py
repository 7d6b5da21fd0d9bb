"""Runs migrations on the caller's connection, or on the database of the settings."""

from alembic import context
from sqlalchemy import Connection, create_engine

from storefront.core.settings import get_settings
from storefront.models import is_managed_by_metadata, metadata


def run(connection: Connection) -> None:
    """Run all pending migrations in one transaction, one process at a time."""
    compared = {"compare_type": True, "compare_server_default": True, "include_name": is_managed_by_metadata}
    context.configure(connection=connection, target_metadata=metadata, **compared)  # type: ignore[arg-type]
    with context.begin_transaction():
        # Several processes may start at once: the second waits for the lock, then finds nothing pending.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7312026)")
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = get_settings().database_url
    if url is None:
        raise SystemExit("Set STOREFRONT_DATABASE_URL for alembic itself; `storefront migrate` also knows the embedded Postgres.")
    with create_engine(url.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1)).connect() as connection:
        run(connection)
