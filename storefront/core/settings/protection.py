"""Settings against overload: the request timeout, load shedding, and rate limits."""

from pydantic import Field, SecretStr, field_validator

from storefront.core.settings.http import ServerSettings
from storefront.core.settings.parsing import normalize_rate, validate_rate

# Rate limits of an address where none is set and other machines reach the server: an office behind one address (NAT) stays below
# them, a single program that sends requests without a pause does not.
DEFAULT_ADDRESS_RATE, DEFAULT_EVENTS_RATE = "6000/m burst 1000", "1200/m burst 300"


class ProtectionSettings(ServerSettings):
    """Request timeout, load shedding and rate limits. The defaults depend on whether other machines reach the server."""

    request_timeout: float = Field(30.0, gt=0, le=3600, description="Maximum seconds of a query or mutation.")
    max_concurrent: int = Field(
        200,
        ge=1,
        description="Maximum concurrent queries and mutations of a process. Further ones are refused with Retry-After "
        "(load shedding).",
    )
    rate_limit_address: str | None = Field(
        None,
        description='Rate limit of an address, such as "600/m burst 100"; behind a proxy set STOREFRONT_TRUSTED_PROXIES first. '
        f'"off": no limit. Unset: "{DEFAULT_ADDRESS_RATE}" where other machines reach STOREFRONT_HOST, else no limit.',
    )
    rate_limit_viewer: str | None = Field(
        None, description='Rate limit of a signed-in user, such as "1200/m burst 200". Unset or "off": no limit.'
    )
    rate_limit_events: str | None = Field(
        None,
        description='Rate limit of an address at /events/{configId}, such as "120/m burst 60". "off": no limit. '
        f'Unset: "{DEFAULT_EVENTS_RATE}" where other machines reach STOREFRONT_HOST, else no limit.',
    )
    rate_limit_sign_in: str | None = Field(
        "600/m burst 600", description='Rate limit of invalid credentials from an address. "off": no limit.'
    )
    rate_limit_cost: int = Field(
        1_000, ge=0, description="Query cost that counts as one more request towards rate limits; 0: cost does not count."
    )
    rate_limit_url: SecretStr | None = Field(
        None, description="Redis in which all processes count together: redis://. Unset: each process counts on its own."
    )

    def viewer_rate(self) -> str | None:
        """The rate limit of a signed-in user; None for no limit."""
        return normalize_rate(self.rate_limit_viewer)

    def sign_in_rate(self) -> str | None:
        """The rate limit of invalid credentials from an address; None for no limit."""
        return normalize_rate(self.rate_limit_sign_in)

    def address_rate(self) -> str | None:
        """The rate limit of an address; None for no limit."""
        return self._resolve_rate(self.rate_limit_address, DEFAULT_ADDRESS_RATE)

    def events_rate(self) -> str | None:
        """The rate limit of an address that sends analytics events; None for no limit."""
        return self._resolve_rate(self.rate_limit_events, DEFAULT_EVENTS_RATE)

    def _resolve_rate(self, rate: str | None, default: str) -> str | None:
        if rate is None:
            return default if self.is_exposed() else None
        return normalize_rate(rate)

    @field_validator("rate_limit_address", "rate_limit_viewer", "rate_limit_events", "rate_limit_sign_in")
    @classmethod
    def _check_rates(cls, value: str | None) -> str | None:
        return validate_rate(value)

    @field_validator("rate_limit_url")
    @classmethod
    def _check_rate_limit_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must be a redis:// or rediss:// URL, or unset")
        return value
