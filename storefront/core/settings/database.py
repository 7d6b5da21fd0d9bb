"""Settings of the database: where Postgres is, connection pool and timeouts."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class DatabaseSettings(BaseSettings):
    """The primary, the read replica, and the data folder of the embedded Postgres."""

    database_url: SecretStr | None = Field(
        None, description="URL of Postgres 15 or newer. Unset: an embedded server, whose files are in the data folder."
    )
    database_read_url: SecretStr | None = Field(
        None,
        description="URL of read replicas, which answer queries of anonymous clients: one host, or several, comma-separated. "
        "Unset: none.",
    )
    max_replica_lag: float = Field(
        60.0,
        ge=0,
        description="Seconds that a replica may be behind the primary; one that is further behind is not used. 0: no limit.",
    )
    data_dir: Path = Field(
        Path(".storefront"),
        description="Data folder: the embedded Postgres, generated secrets, and files where no bucket is set.",
    )


class PoolSettings(BaseSettings):
    """The connection pool of each process, and the timeouts of statements."""

    pool_size: int = Field(10, ge=1, le=200, description="Maximum number of database connections per process.")
    pool_timeout: float = Field(
        5.0,
        gt=0,
        le=600,
        description="Seconds that an operation waits for a connection, and that a write waits for other writes to its store.",
    )
    lock_timeout: int = Field(3_000, ge=0, description="Milliseconds that a statement waits for a lock. 0: no limit.")
    prepared_statements: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether statements are prepared. auto: unless a connection pooler is detected; "
        "on: for a pooler that supports prepared statements.",
    )
    statement_timeout: int = Field(10_000, ge=100, description="Milliseconds after which Postgres cancels a statement.")
