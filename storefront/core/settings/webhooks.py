"""Settings of webhooks: dispatch, retry policy, payloads, and the networks they may send to."""

from ipaddress import ip_network

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from storefront.core.settings.parsing import split_list


class WebhookSettings(BaseSettings):
    """Delivery of webhooks."""

    webhook_interval: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Seconds between polls for webhook messages to send, besides wake-ups; 0: this process sends none.",
    )
    webhook_concurrency: int = Field(
        64,
        ge=1,
        le=1_000,
        description="Maximum webhooks that a process delivers to at a time, with up to 4 messages of each in flight; "
        "those of one owner take about a third of them at most.",
    )
    webhook_timeout: float = Field(10.0, gt=0, le=60, description="Seconds within which the receiver of a message must respond.")
    webhook_retry: float = Field(
        5.0, gt=0, le=3_600, description="Seconds to the first retry of a message; each further one waits three times as long."
    )
    webhook_attempts: int = Field(14, ge=1, le=50, description="Attempts to deliver a message before it becomes a dead letter.")
    webhook_disable_hours: float = Field(
        72.0, ge=0, le=2_160, description="Hours without a successful delivery after which a webhook is disabled."
    )
    webhook_log_days: int = Field(7, ge=1, le=365, description="Days for which deliveries of webhooks are retained.")
    webhook_max_payload: int = Field(262_144, ge=1_024, le=10_000_000, description="Maximum bytes of a message.")
    webhook_http: bool = Field(False, description="Whether webhooks may have http:// URLs: for development and tests.")
    webhook_networks: str | None = Field(
        None,
        description="Private networks that webhooks and fetched images may be in, comma-separated, such as 10.1.0.0/16 (SSRF).",
    )

    def networks(self) -> list[str]:
        """The networks that webhooks may send to, besides the public ones."""
        return split_list(self.webhook_networks)

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, value: str | None) -> str | None:
        for network in split_list(value):
            ip_network(network)
        return value
