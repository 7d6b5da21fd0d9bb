"""Settings of the changelog of each store, and of the wake-ups between processes (pub/sub)."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class FeedSettings(BaseSettings):
    """Pub/sub, polling and retention of the changelog."""

    broadcast_url: SecretStr | None = Field(
        None,
        description="Pub/sub between processes: memory://, postgresql://, redis:// or rediss://. "
        "Unset: memory:// for one worker, the database for several.",
    )
    poll_interval: float = Field(
        1.0,
        gt=0,
        le=60,
        description="Seconds between polls for changes whose wake-up was lost: the longest delay of a change.",
    )
    feed_heartbeat_seconds: float = Field(
        20.0,
        gt=0,
        le=3_600,
        description="Seconds between heartbeats of product feeds, which tell idle subscribers how far the log has moved.",
    )
    log_retention_days: int = Field(7, ge=1, le=3650, description="Days for which entries of the changelog are retained.")
