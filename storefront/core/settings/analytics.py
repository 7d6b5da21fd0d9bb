"""Settings of analytics: popularity, rollups, and retention of events."""

from pydantic import Field
from pydantic_settings import BaseSettings


class AnalyticsSettings(BaseSettings):
    """Intervals of the background work of analytics, and retention."""

    popularity_interval: int = Field(
        600,
        ge=0,
        description="Seconds between refreshes of product popularity; 0: only `storefront refresh-popularity` does it.",
    )
    rollup_interval: float = Field(
        1.0, ge=0, le=3600, description="Seconds between rollups of new events; 0: only `storefront roll-up` does it."
    )
    event_retention_days: int = Field(
        400,
        ge=31,
        le=3650,
        description="Minimum days for which raw events are retained; whole months are dropped. Rollups stay.",
    )
