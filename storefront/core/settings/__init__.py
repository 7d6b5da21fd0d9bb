"""All settings of the server, read once from `STOREFRONT_*` environment variables or a `.env` file."""

from functools import cache
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from storefront.core.settings.analytics import AnalyticsSettings
from storefront.core.settings.auth import AuthSettings
from storefront.core.settings.caching import CacheSettings
from storefront.core.settings.database import DatabaseSettings, PoolSettings
from storefront.core.settings.feed import FeedSettings
from storefront.core.settings.graphql import GraphQLSettings
from storefront.core.settings.http import LifecycleSettings, ProxySettings, PublicUrlSettings, ServerSettings
from storefront.core.settings.imports import ImportSettings
from storefront.core.settings.limits import LimitSettings
from storefront.core.settings.observability import ObservabilitySettings
from storefront.core.settings.parsing import LOCAL_HOSTS, split_list
from storefront.core.settings.protection import DEFAULT_ADDRESS_RATE, DEFAULT_EVENTS_RATE, ProtectionSettings
from storefront.core.settings.secret_keys import SecretSettings
from storefront.core.settings.storage import StorageSettings
from storefront.core.settings.webhooks import WebhookSettings

__all__ = ["DEFAULT_ADDRESS_RATE", "DEFAULT_EVENTS_RATE", "LOCAL_HOSTS", "Settings", "get_settings"]


class Settings(
    # Fields of the last base come first, in docs/settings.md and in validation: a validator sees the fields before its own.
    LifecycleSettings,
    ObservabilitySettings,
    ImportSettings,
    CacheSettings,
    WebhookSettings,
    AnalyticsSettings,
    ProtectionSettings,
    PoolSettings,
    ServerSettings,
    GraphQLSettings,
    LimitSettings,
    ProxySettings,
    FeedSettings,
    StorageSettings,
    PublicUrlSettings,
    AuthSettings,
    SecretSettings,
    DatabaseSettings,
):
    """The settings of a process. docs/settings.md repeats the descriptions of their fields, in their order."""

    # Errors must not quote values: a value may be a secret.
    model_config = SettingsConfigDict(env_prefix="STOREFRONT_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    def pubsub_url(self) -> str:
        """The pub/sub backend. By default, several workers use the database that they share."""
        if self.broadcast_url is not None:
            return self.broadcast_url.get_secret_value()
        return self.database_url.get_secret_value() if self.workers > 1 and self.database_url else "memory://"

    def base_url(self) -> str:
        """The URL under which clients reach this server, without a slash at its end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        # Clients cannot connect to a wildcard address.
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def list_secret_values(self) -> list[str]:
        """All secrets that must be redacted: whole values, passwords in URLs, and the items of lists."""
        values = [getattr(self, name) for name in type(self).model_fields]
        secret_texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        passwords = [urlsplit(text).password or "" for text in secret_texts if "://" in text]
        passwords += [unquote(password) for password in passwords]
        return [*secret_texts, *passwords, *(segment for text in secret_texts for segment in split_list(text))]

    @field_validator("public_url", "s3_endpoint", "s3_public_url")
    @classmethod
    def _check_urls(cls, value: str | None, info: ValidationInfo) -> str | None:
        parts = urlsplit(value or "https://unset.example")
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or any(character in (value or "") for character in '?#@ "<>\\')
        ):
            raise ValueError("must be an http:// or https:// URL without ?, # or @")
        if info.field_name == "s3_endpoint" and parts.path.strip("/"):
            raise ValueError("must be the service's address without a path: set the bucket in STOREFRONT_S3_BUCKET")
        return value


@cache
def get_settings() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError."""
    return Settings()
