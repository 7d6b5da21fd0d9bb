"""Every setting of the server, read once from `STOREFRONT_*` variables or a `.env` file."""

import os
import secrets
from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may choose. The README's table of settings is made of these lines."""

    model_config = SettingsConfigDict(env_prefix="STOREFRONT_", env_file=".env", extra="ignore")

    database_url: SecretStr | None = Field(
        None, description="Postgres 15 or newer, as a URL. Unset: an embedded server keeps its files in the data folder."
    )
    data_dir: Path = Field(Path(".storefront"), description="Where the embedded Postgres and the signing secret are kept.")
    secret: SecretStr | None = Field(
        None, min_length=32, description="Signs tokens (HS256), 32 characters or more. Unset: made once, kept in the data folder."
    )
    broadcast_url: str = Field("memory://", description="How processes wake each other after a commit.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Server processes.")
    pool_size: int = Field(10, ge=1, le=200, description="Database connections per process, at most.")
    statement_timeout: int = Field(10_000, ge=100, description="Milliseconds after which Postgres gives up on a statement.")
    popularity_interval: int = Field(
        600, ge=0, description="Seconds between refreshes of product popularity; 0 leaves it to the command."
    )
    graphiql: bool = Field(True, description="Whether /graphql answers a browser with GraphiQL.")

    def signing_secret(self) -> str:
        """The key that signs tokens. Without one in the settings, 32 random bytes are made and kept for the next start."""
        if self.secret is not None:
            return self.secret.get_secret_value()
        return _kept_secret(self.data_dir / "secret")


def _kept_secret(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # "x" makes the first of several starting processes the only writer; the mode keeps other users out from the start.
        with open(path, "x", opener=_private) as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text().strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
