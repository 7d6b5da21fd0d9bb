"""Settings of HTTP serving: addresses, trusted proxies, graceful shutdown, and the GraphiQL page."""

from ipaddress import ip_network

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from storefront.core.settings.parsing import LOCAL_HOSTS, parse_ipv4_network, split_list


class PublicUrlSettings(BaseSettings):
    """Where clients reach the server."""

    public_url: str | None = Field(
        None,
        description="Public URL of this server, such as https://api.shop.example: the base of upload and image URLs. "
        "Unset: host and port.",
    )


class ProxySettings(BaseSettings):
    """Reverse proxies whose forwarding headers are trusted."""

    trusted_proxies: str | None = Field(
        None,
        description="Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses or networks, comma-separated, or "
        "*. Set to an empty value: there is no proxy.",
    )

    def proxy_networks(self) -> list[str]:
        """The trusted proxies; those of IPv4 also as IPv4-mapped IPv6 networks, as a dual-stack socket reports them."""
        proxies = split_list(self.trusted_proxies)
        return [
            *proxies,
            *(
                f"::ffff:{network.network_address}/{96 + network.prefixlen}"
                for network in map(parse_ipv4_network, proxies)
                if network
            ),
        ]

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str | None) -> str | None:
        for proxy in split_list(value):
            if proxy != "*":
                ip_network(proxy)
        return value


class ServerSettings(BaseSettings):
    """Listening address and worker processes."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Number of server processes.")

    def is_exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host not in LOCAL_HOSTS and not self.host.startswith("127.")


class LifecycleSettings(BaseSettings):
    """Graceful shutdown, and GraphiQL."""

    shutdown_delay: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Seconds for which a server goes on answering after SIGTERM, while /readyz takes it out of load balancing.",
    )
    graphiql: bool = Field(True, description="Whether /graphql serves GraphiQL to browsers.")
