"""Schema migrations: upgrade a database to the newest revision, and compare revisions."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

_PACKAGE = Path(__file__).parents[2]
# An installed package contains the folder (setup.py); in the repository it lies beside the package.
MIGRATIONS_FOLDER = next(folder for parent in (_PACKAGE, _PACKAGE.parent) if (folder := parent / "migrations").is_dir())


def connect(url: str) -> Connection:
    """A SQLAlchemy connection for alembic. The caller closes it."""
    return create_engine("postgresql+psycopg://" + url.partition("://")[2], poolclass=NullPool).connect()


class NewerSchemaError(Exception):
    """The database is at a revision that this version of the software does not know."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The database is at {revision}, which this version does not know: a newer one migrated it. "
            "Run that version, or restore a backup from before."
        )


def migrate(url: str) -> None:
    """Upgrade to the newest schema, in one transaction; concurrent processes wait for the first. Raises NewerSchemaError."""
    with connect(url) as connection:
        check_revision(get_current_revision(connection))
        command.upgrade(build_config(connection), "head")
        connection.commit()


def get_current_revision(connection: Connection) -> str:
    """The revision of the database; "base" for an empty one."""
    return MigrationContext.configure(connection).get_current_revision() or "base"


def get_head_revision() -> str:
    """The newest revision that this code knows."""
    return ScriptDirectory(str(MIGRATIONS_FOLDER)).get_current_head() or "base"


def check_revision(revision: str) -> None:
    """Raise NewerSchemaError for a revision that this code does not know."""
    if revision != "base" and not has_revision(revision):
        raise NewerSchemaError(revision)


def has_revision(revision: str) -> bool:
    """Whether this code knows a revision; it does not know those of newer releases."""
    return any(script.revision == revision for script in ScriptDirectory(str(MIGRATIONS_FOLDER)).walk_revisions())


def build_config(connection: Connection) -> Config:
    """The configuration for alembic's commands, bound to this connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER))
    config.set_main_option("path_separator", "os")
    return config
