"""Every setting of the server, read once from `STOREFRONT_*` variables or a `.env` file."""

import os
import secrets
import time
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Network, ip_network
from itertools import zip_longest
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from throttled.exceptions import BaseThrottledError
from throttled.rate_limiter.quota_parser import parse as parse_quota

from storefront.core.auth.csrf import normalize_origin
from storefront.core.encryption import Vault, generate_key
from storefront.core.net.shopify_client import API_VERSION

# Hosts that are this machine: only to them may anything go unencrypted.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# What an address may do where nothing is set and others than this machine reach the server: an office behind one address stays
# below it, a single program that asks as fast as it can does not.
DEFAULT_ADDRESS_RATE, DEFAULT_EVENTS_RATE = "6000/m burst 1000", "1200/m burst 300"


class Settings(BaseSettings):
    """What an operator may choose. docs/settings.md is made of these lines."""

    # Errors name what is wrong, never what was given: it may be a secret.
    model_config = SettingsConfigDict(env_prefix="STOREFRONT_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr | None = Field(
        None, description="Postgres 15 or newer, as a URL. Unset: an embedded server keeps its files in the data folder."
    )
    database_read_url: SecretStr | None = Field(
        None, description="A replica of it, as a URL: answers queries of those who are not signed in. Unset: none."
    )
    data_dir: Path = Field(
        Path(".storefront"), description="Where the embedded Postgres and what is made at first start are kept."
    )
    secret: SecretStr | None = Field(
        None, min_length=32, description="Signs tokens (HS256), 32 characters or more. Unset: made once, kept in the data folder."
    )
    encryption_keys: SecretStr | None = Field(
        None, description="Encrypt stored secrets: Fernet keys, comma-separated, newest first. Unset: made once, kept there."
    )
    oidc_issuer: str | None = Field(
        None, description="OpenID Connect issuers whose bearer tokens count, comma-separated, each as in the `iss` of its tokens."
    )
    oidc_audience: str | None = Field(
        None, validate_default=True, description="Which `aud` their tokens must have, comma-separated: one of them will do."
    )
    oidc_jwks_url: str | None = Field(
        None, description="Where their keys are, one URL per issuer in the same order. Unset: found by discovery."
    )
    oidc_keys_max_age: int = Field(600, ge=30, le=86_400, description="Seconds for which their keys are kept, at most.")
    oidc_trust_email: bool = Field(
        True,
        description="Whether an address that these issuers call verified is taken to be so: it leads to the user who has it at "
        "another issuer.",
    )
    clock_skew: int = Field(
        30,
        ge=0,
        le=300,
        description="Seconds by which the clock of a token's issuer may differ from ours. Its tokens of so long after their user "
        "signed out everywhere do not count either.",
    )
    authjs_secret: SecretStr | None = Field(
        None, description="Opens session cookies of Auth.js (NextAuth): its secret; several comma-separated, newest first."
    )
    authjs_trust_email: bool = Field(
        False, description="Whether every address in an Auth.js session is verified, so that it may lead to an existing user."
    )
    allowed_origins: str | None = Field(
        None, description="Origins besides our own whose pages may send cookies, comma-separated, such as https://shop.example."
    )
    open_to_origins: bool = Field(
        False, description="Whether pages of all other origins may ask and read as well, but without cookies (CORS: `*`)."
    )
    public_url: str | None = Field(
        None,
        description="Where clients reach this server, such as https://api.shop.example: addresses of uploads and images begin "
        "so. Unset: its host and port.",
    )
    max_image_bytes: int = Field(20_000_000, ge=10_000, le=500_000_000, description="Bytes of an uploaded image, at most.")
    max_image_pixels: int = Field(
        50_000_000,
        ge=10_000,
        le=500_000_000,
        description="Its pixels, at most: so many take up to a gigabyte of memory, for one image at a time.",
    )
    s3_bucket: str | None = Field(
        None, description="A bucket of S3's kind for images and files (needs the extra `s3`). Unset: they are in the data folder."
    )
    s3_endpoint: str | None = Field(
        None, description="The service that has the bucket, such as https://ACCOUNT.r2.cloudflarestorage.com. Unset: AWS."
    )
    s3_region: str = Field("us-east-1", description="The bucket's region; auto for Cloudflare R2.")
    s3_access_key_id: str | None = Field(None, description="Who may read, write, delete and list in the bucket.")
    s3_secret_access_key: SecretStr | None = Field(None, validate_default=True, description="The secret of that key.")
    s3_addressing: Literal["path", "virtual"] | None = Field(
        None, description="Where the bucket's name stands, in the path or before the host. Unset: virtual for AWS, else path."
    )
    s3_public_url: str | None = Field(
        None,
        description="Where everybody can read what is under media/ in the bucket, such as a CDN. Unset: nowhere, we serve it.",
    )
    broadcast_url: SecretStr | None = Field(
        None,
        description="Pub/sub between processes: memory://, postgresql://, redis:// or rediss://. "
        "Unset: memory:// for one worker, the database for several.",
    )
    poll_interval: float = Field(
        1.0,
        gt=0,
        le=60,
        description="Seconds between looks for changes that no wake-up told of: the longest a change may be late.",
    )
    log_retention_days: int = Field(7, ge=1, le=3650, description="Days that the log of changes is kept.")
    trusted_proxies: str | None = Field(
        None,
        description="Proxies whose X-Forwarded-For and X-Forwarded-Proto count: addresses or networks, comma-separated, or *. "
        "Set, but empty: there is no proxy.",
    )
    max_body: int = Field(1_500_000, ge=10_000, description="Bytes of a request's body, at most.")
    body_timeout: float = Field(10.0, gt=0, le=600, description="Seconds within which all of a body has to come.")
    max_values: int = Field(20_000, ge=1_000, description="Values in the JSON of a request, at most: those of variables, mostly.")
    max_document: int = Field(100_000, ge=1_000, description="Characters of a GraphQL document, at most.")
    max_tokens: int = Field(2_000, ge=100, description="Names, values and signs of a document, at most.")
    max_depth: int = Field(20, ge=3, description="Levels of fields in a document, at most, through fragments too.")
    max_fields: int = Field(500, ge=10, description="Fields that a document selects, at most.")
    max_aliases: int = Field(100, ge=0, description="Aliases in a document, at most.")
    max_directives: int = Field(100, ge=0, description="Directives in a document, at most.")
    max_document_operations: int = Field(10, ge=1, description="Operations in a document, at most.")
    max_root_fields: int = Field(50, ge=1, description="Fields of an operation at the top, at most.")
    max_mutations: int = Field(20, ge=1, description="Mutations in one request, at most.")
    max_cost: int = Field(100_000, ge=100, description="What an operation may cost: fields times sizes of lists, at most.")
    max_sockets: int = Field(
        10_000, ge=1, description="WebSockets that a process holds, at most, and as many event streams. Others are sent away."
    )
    max_operations: int = Field(100, ge=1, description="Operations that run on one WebSocket at a time, at most.")
    max_message: int = Field(262_144, ge=1_024, description="Bytes of a message from a WebSocket's client, at most.")
    max_response: int = Field(16_000_000, ge=10_000, description="Bytes of one response to an operation or a batch, at most.")
    max_unread_connection: int = Field(
        32_000_000,
        ge=10_000,
        validate_default=True,
        description="Bytes that may wait on one HTTP connection for its client to read them; beyond it is aborted.",
    )
    max_unread_websocket: int = Field(
        32_000_000,
        ge=10_000,
        validate_default=True,
        description="Bytes that may wait on one WebSocket for its client to read them; further answers are errors until it has.",
    )
    max_unread: int = Field(
        256_000_000,
        ge=10_000,
        validate_default=True,
        description="Bytes that may wait in one process; beyond, the connections that would take longest to read theirs are "
        "aborted.",
    )
    write_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds within which a client has to read some of what waits for it; else its connection is aborted.",
    )
    min_write_rate: int = Field(
        500, ge=0, description="Bytes per second that a client has to read of what waits for it, over the write timeout."
    )
    init_timeout: float = Field(10.0, gt=0, le=600, description="Seconds within which a WebSocket has to be initialised.")
    max_batch: int = Field(10, ge=0, le=100, description="Requests in one HTTP body (a JSON array), at most; 0: no arrays.")
    status_codes: Literal["draft", "2026-09"] = Field(
        "draft",
        description="Which status codes: of the draft of GraphQL over HTTP that clients know, or of its edition of 2026-09.",
    )
    persisted_queries: bool = Field(
        True, description="Whether documents are kept for those who send only their hash: Apollo's automatic persisted queries."
    )
    trusted_documents: Literal["allow", "only"] = Field(
        "allow", description="Whether documents of the manifests are run beside all others (allow) or alone (only)."
    )
    trusted_manifests: str | None = Field(
        None,
        validate_default=True,
        description="Manifests of documents, as files of Apollo's, Relay's or GraphQL Code Generator's, comma-separated.",
    )
    introspection: bool = Field(
        True, description="Whether the schema is told. If not, mistakes in documents are not answered with names of it, either."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Server processes.")
    pool_size: int = Field(10, ge=1, le=200, description="Database connections per process, at most.")
    pool_timeout: float = Field(
        5.0, gt=0, le=600, description="Seconds that an operation waits for a connection, and a write for others of its store."
    )
    lock_timeout: int = Field(3_000, ge=0, description="Milliseconds that a statement waits for a lock of others. 0: any time.")
    prepared_statements: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether statements are prepared. auto: unless a connection pooler stands in between; "
        "on is for one that carries prepared statements over.",
    )
    statement_timeout: int = Field(10_000, ge=100, description="Milliseconds after which Postgres gives up on a statement.")
    request_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds that a query or mutation may take.")
    max_concurrent: int = Field(
        200, ge=1, description="Queries and mutations that a process runs at a time, at most. Others are told to try again."
    )
    rate_limit_address: str | None = Field(
        None,
        description='Requests from one address, such as "600/m burst 100"; behind a proxy set STOREFRONT_TRUSTED_PROXIES first. '
        f'"off": any number. Unset: "{DEFAULT_ADDRESS_RATE}" where other machines reach STOREFRONT_HOST, else any number.',
    )
    rate_limit_viewer: str | None = Field(
        None, description='Requests of one signed-in user, such as "1200/m burst 200". Unset or "off": any number.'
    )
    rate_limit_events: str | None = Field(
        None,
        description='Requests to /events/{configId} from one address, such as "120/m burst 60". "off": any number. '
        f'Unset: "{DEFAULT_EVENTS_RATE}" where other machines reach STOREFRONT_HOST, else any number.',
    )
    rate_limit_sign_in: str | None = Field(
        "600/m burst 600", description='Proofs from one address that do not hold. "off": any number.'
    )
    rate_limit_cost: int = Field(
        1_000, ge=0, description="How much of an operation's cost counts as one more request; 0: none of it."
    )
    rate_limit_url: SecretStr | None = Field(
        None, description="Where processes count together: redis://. Unset: each counts for itself."
    )
    popularity_interval: int = Field(
        600, ge=0, description="Seconds between refreshes of product popularity; 0 leaves it to the command."
    )
    rollup_interval: float = Field(
        1.0, ge=0, le=3600, description="Seconds between counts of the events that came in; 0 leaves it to `storefront roll-up`."
    )
    event_retention_days: int = Field(
        400, ge=31, le=3650, description="Days that single events are kept, at least: whole months go. What was counted stays."
    )
    webhook_interval: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Seconds between looks for what webhooks are to be told, besides wake-ups; 0: this process tells nothing.",
    )
    webhook_concurrency: int = Field(
        64,
        ge=1,
        le=1_000,
        description="Webhooks that a process delivers to at a time, with up to 4 messages of each in flight; "
        "those of one owner take about a third of them at most.",
    )
    webhook_timeout: float = Field(10.0, gt=0, le=60, description="Seconds that the receiver of a message has to answer.")
    webhook_retry: float = Field(
        5.0, gt=0, le=3_600, description="Seconds to the first retry of a message; each further one waits three times as long."
    )
    webhook_attempts: int = Field(14, ge=1, le=50, description="How often a message is tried before it is given up.")
    webhook_disable_hours: float = Field(
        72.0, ge=0, le=2_160, description="Hours after which a webhook is disabled when nothing has got through since."
    )
    webhook_log_days: int = Field(7, ge=1, le=365, description="Days that is known what webhooks were told.")
    webhook_max_payload: int = Field(262_144, ge=1_024, le=10_000_000, description="Bytes of a message, at most.")
    webhook_http: bool = Field(False, description="Whether webhooks may have http:// addresses: for development and tests.")
    webhook_networks: str | None = Field(
        None,
        description="Networks that webhooks may lead to although they are not public, comma-separated, such as 10.1.0.0/16.",
    )
    cache: Literal["relaxed", "strict"] = Field(
        "relaxed",
        description="How it is known that an answer still holds: relaxed hears of changes in other processes within the poll "
        "interval, strict asks the database each time.",
    )
    response_cache_bytes: int = Field(
        64_000_000, ge=0, description="Bytes of public answers that a process keeps, at most; 0: none."
    )
    cache_max_age: int = Field(
        0, ge=0, le=31_536_000, description="Seconds for which browsers and caches use a public answer without asking again."
    )
    cache_shared_max_age: int | None = Field(
        None, ge=0, le=31_536_000, description="The same for caches that many share, such as a CDN. Unset: as for all."
    )
    cache_stale_while_revalidate: int = Field(
        0, ge=0, le=31_536_000, description="Seconds for which caches may use an answer even longer while they ask again."
    )
    job_workers: int = Field(
        2, ge=0, le=16, description="Imports and exports that a process works at, at most; 0: none, others do."
    )
    jobs_per_owner: int = Field(
        1, ge=1, le=100, description="Imports and exports of one owner that run at a time, in all processes together."
    )
    job_retention_days: int = Field(
        7, ge=1, le=365, description="Days that imports and exports are told of, and their files kept."
    )
    max_import: int = Field(1_000_000_000, ge=1_000, le=2_000_000_000, description="Bytes of a file of products, at most.")
    max_import_rows: int = Field(
        2_000_000, ge=1, le=20_000_000, description="Rows of a file of products, at most; of a shop its products and variants."
    )
    shopify_api_version: str = Field(
        API_VERSION, pattern=r"^20[0-9]{2}-(01|04|07|10)$", description="Which version of Shopify's Admin API is asked."
    )
    shopify_url: str | None = Field(
        None,
        description="Where Shopify's Admin API is asked in place of each shop's own host, for a proxy or a test: it is sent the "
        "access tokens. Unset: https://{shop}.myshopify.com.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How lines of the log are written, those of uvicorn included."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="From which level on there are lines; each request has one at info."
    )
    slow_operation: float = Field(1.0, gt=0, description="Seconds after which an operation is logged as a slow one.")
    metrics_port: int | None = Field(
        None, ge=1, le=65_472, description="Port for Prometheus, /metrics; each worker takes the next one. Unset: no metrics."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of that port. Who reaches it can read all of the metrics.")
    traces_endpoint: str | None = Field(
        None, description="Where OpenTelemetry traces are sent, OTLP over HTTP: http://collector:4318/v1/traces. Unset: none."
    )
    traces_share: float = Field(
        1.0, ge=0, le=1, description="Which share of the requests is traced, besides those whose traceparent says so."
    )
    shutdown_delay: float = Field(
        0.0, ge=0, le=300, description="Seconds that a server still answers on SIGTERM while /readyz sends requests elsewhere."
    )
    graphiql: bool = Field(True, description="Whether /graphql answers a browser with GraphiQL.")

    def cache_control(self) -> str:
        """The header of public answers."""
        shared_max_age, stale_seconds = self.cache_shared_max_age, self.cache_stale_while_revalidate
        directives = [
            "public",
            f"max-age={self.cache_max_age}",
            f"s-maxage={shared_max_age}" if shared_max_age is not None else "",
        ]
        # The two exclude each other: one says that nothing old is ever to be used.
        directives.append(f"stale-while-revalidate={stale_seconds}" if stale_seconds else "must-revalidate")
        return ", ".join(filter(None, directives))

    def pubsub_url(self) -> str:
        """Where processes wake each other. Several workers on one machine have their database in common."""
        if self.broadcast_url is not None:
            return self.broadcast_url.get_secret_value()
        return self.database_url.get_secret_value() if self.workers > 1 and self.database_url else "memory://"

    def base_url(self) -> str:
        """Where clients reach this server."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        # An address that stands for all of the machine's own is none that anybody could ask.
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def load_signing_secret(self) -> str:
        """The key that signs tokens. Without one in the settings, 32 random bytes are made and kept for the next start."""
        if self.secret is not None:
            return self.secret.get_secret_value()
        return _load_or_create(self.data_dir / "secret", lambda: secrets.token_urlsafe(32))

    def load_vault(self) -> Vault:
        """What encrypts stored secrets. Without keys in the settings, one is made and kept for the next start."""
        return Vault(_split_list(self.encryption_keys) or [_load_or_create(self.data_dir / "encryption-key", generate_key)])

    def issuers(self) -> dict[str, str | None]:
        """The OpenID Connect issuers, each with the URL of its keys where that is set."""
        return dict(zip_longest(_split_list(self.oidc_issuer), _split_list(self.oidc_jwks_url)))

    def audiences(self) -> list[str]:
        """By which names their tokens may mean us."""
        return _split_list(self.oidc_audience)

    def authjs_secrets(self) -> list[str]:
        """The secrets of the Auth.js front ends, newest first."""
        return _split_list(self.authjs_secret)

    def proxy_networks(self) -> list[str]:
        """The proxies whose headers count, those of IPv4 also as a socket for IPv6 sees them."""
        proxies = _split_list(self.trusted_proxies)
        return [
            *proxies,
            *(
                f"::ffff:{network.network_address}/{96 + network.prefixlen}"
                for network in map(_parse_ipv4_network, proxies)
                if network
            ),
        ]

    def is_exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host not in LOCAL_HOSTS and not self.host.startswith("127.")

    def viewer_rate(self) -> str | None:
        """The requests of a signed-in user; None for any number."""
        return _normalize_rate(self.rate_limit_viewer)

    def sign_in_rate(self) -> str | None:
        """The attempts to sign in of an address that fail; None for any number."""
        return _normalize_rate(self.rate_limit_sign_in)

    def address_rate(self) -> str | None:
        """The requests of an address; None for any number."""
        return self._resolve_rate(self.rate_limit_address, DEFAULT_ADDRESS_RATE)

    def events_rate(self) -> str | None:
        """The requests of an address for events; None for any number."""
        return self._resolve_rate(self.rate_limit_events, DEFAULT_EVENTS_RATE)

    def _resolve_rate(self, rate: str | None, default: str) -> str | None:
        if rate is None:
            return default if self.is_exposed() else None
        return _normalize_rate(rate)

    def manifest_paths(self) -> list[Path]:
        """The files of trusted documents."""
        return [Path(path) for path in _split_list(self.trusted_manifests)]

    def origins(self) -> frozenset[str]:
        """The allowed origins as browsers write them."""
        return frozenset(normalize_origin(origin) for origin in _split_list(self.allowed_origins))

    def networks(self) -> list[str]:
        """The networks that webhooks may lead to, besides the public ones."""
        return _split_list(self.webhook_networks)

    def list_secret_values(self) -> list[str]:
        """What must never be told, each part of it by itself."""
        values = [getattr(self, name) for name in type(self).model_fields]
        secret_texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        passwords = [urlsplit(text).password or "" for text in secret_texts if "://" in text]
        passwords += [unquote(password) for password in passwords]
        return [*secret_texts, *passwords, *(segment for text in secret_texts for segment in _split_list(text))]

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
            raise ValueError("must be the service's address alone: the bucket stands in STOREFRONT_S3_BUCKET")
        return value

    @field_validator("s3_secret_access_key")
    @classmethod
    def _check_bucket(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("s3_bucket") and not (value and info.data.get("s3_access_key_id")):
            raise ValueError("must be set with STOREFRONT_S3_BUCKET, and STOREFRONT_S3_ACCESS_KEY_ID too")
        return value

    @field_validator("max_unread_connection", "max_unread_websocket", "max_unread")
    @classmethod
    def _check_unread(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("max_response", 0):
            raise ValueError("must be at least STOREFRONT_MAX_RESPONSE: one response has to fit")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _check_encryption_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if _split_list(value):
            Vault(_split_list(value))
        return value

    @field_validator("rate_limit_address", "rate_limit_viewer", "rate_limit_events", "rate_limit_sign_in")
    @classmethod
    def _check_rates(cls, value: str | None) -> str | None:
        try:
            if _normalize_rate(value) and len(parse_quota(value or "")) != 1:
                raise ValueError(_RATE_PROBLEM)
        except BaseThrottledError:
            raise ValueError(_RATE_PROBLEM) from None
        return value

    @field_validator("rate_limit_url")
    @classmethod
    def _check_rate_limit_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must be a redis:// or rediss:// URL, or unset")
        return value

    @field_validator("shopify_url")
    @classmethod
    def _check_shopify_url(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://unset")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
            raise ValueError("must be an https:// URL (http:// only on this machine): access tokens are sent there")
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuers(cls, value: str | None) -> str | None:
        if not all(_is_issuer(url) for url in _split_list(value)):
            raise ValueError("each issuer must be an https:// URL without ?, # or | (http:// only on this machine)")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _check_audiences(cls, value: str | None, info: ValidationInfo) -> str | None:
        if _split_list(info.data.get("oidc_issuer")) and not _split_list(value):
            raise ValueError("must be set with STOREFRONT_OIDC_ISSUER: else tokens made for others would count here")
        return value

    @field_validator("oidc_jwks_url")
    @classmethod
    def _check_jwks_urls(cls, value: str | None, info: ValidationInfo) -> str | None:
        urls = _split_list(value)
        if urls and len(urls) != len(_split_list(info.data.get("oidc_issuer"))):
            raise ValueError("must be one URL for each issuer of STOREFRONT_OIDC_ISSUER, or unset")
        if not all(url.startswith(("https://", "http://")) for url in urls):
            raise ValueError("must be https:// URLs, or http:// inside a network that nobody else can write to")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str | None) -> str | None:
        for proxy in _split_list(value):
            if proxy != "*":
                ip_network(proxy)
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, value: str | None) -> str | None:
        for network in _split_list(value):
            ip_network(network)
        return value

    @field_validator("trusted_manifests")
    @classmethod
    def _check_manifests(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("trusted_documents") == "only" and not _split_list(value):
            raise ValueError("must be set with STOREFRONT_TRUSTED_DOCUMENTS=only: else nothing at all could be asked")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _check_metrics_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        port, workers = info.data.get("port"), info.data.get("workers")
        if value and port and workers and value <= port < value + workers:
            raise ValueError("must leave STOREFRONT_PORT free: each worker takes a port from this one on")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: str | None) -> str | None:
        for origin in _split_list(value):
            normalize_origin(origin)
        return value


_RATE_PROBLEM = 'must be one rate, such as 600/m burst 100: so many per s, m, h or d, and so many at once; or "off"'


def _normalize_rate(rate: str | None) -> str | None:
    """The rate, or None where it is switched off."""
    return None if rate is None or rate.strip().lower() in ("", "off") else rate


def _parse_ipv4_network(proxy: str) -> IPv4Network | None:
    network = None if proxy == "*" else ip_network(proxy)
    return network if isinstance(network, IPv4Network) else None


def _split_list(value: str | SecretStr | None) -> list[str]:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_issuer(url: str) -> bool:
    parts = urlsplit(url)
    if not parts.hostname or any(character in url for character in "?#|@"):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS)


def _load_or_create(path: Path, create: Callable[[], str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # "x" makes the first of several starting processes the only writer; the mode keeps other users out from the start.
        with open(path, "x", opener=_open_private) as file:
            file.write(create())
    except FileExistsError:
        pass
    for _ in range(50):
        content = path.read_text().strip()
        if content:
            return content
        # The one who makes it has not written yet.
        time.sleep(0.02)
    # Going on without would sign and encrypt with nothing.
    raise RuntimeError(f"{path} is empty: whoever made it was stopped while doing so. Remove it, and start again.")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    return Settings()
