"""Brings a database to the newest schema, and tells how far it is from it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

FOLDER = Path(__file__).parents[2] / "migrations"


def connect(url: str) -> Connection:
    """A connection that alembic can use, to be closed by the caller."""
    return create_engine("postgresql+psycopg://" + url.partition("://")[2], poolclass=NullPool).connect()


def migrate(url: str) -> None:
    """Step up to the newest schema. All steps happen or none; a second process waits for the first."""
    with connect(url) as connection:
        command.upgrade(config_for(connection), "head")
        connection.commit()


def current(connection: Connection) -> str:
    """The revision that the database is at, "base" for an empty one."""
    return MigrationContext.configure(connection).get_current_revision() or "base"


def head() -> str:
    """The newest revision that this code knows."""
    return ScriptDirectory(str(FOLDER)).get_current_head() or "base"


def knows(revision: str) -> bool:
    """Whether this code has heard of a revision: of one from later it has not."""
    return any(script.revision == revision for script in ScriptDirectory(str(FOLDER)).walk_revisions())


def config_for(connection: Connection) -> Config:
    """What alembic's own commands take, bound to this connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    return config
