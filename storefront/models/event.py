"""What shoppers did: the raw material of analytics."""

from typing import Any

from sqlalchemy import Index, text

from storefront.models.columns import UUID, Field, SQLModel, datetime, document, key, moment, reference


class AnalyticsEvent(SQLModel, table=True):
    """One event of one store. `ip_address` is truncated before it gets here."""

    __tablename__ = "analytics_events"
    __table_args__ = (
        Index("analytics_events_timestamp_idx", text('"timestamp" DESC')),
        Index("analytics_events_newest_idx", "config_id", text('"timestamp" DESC'), text("id DESC")),
    )

    id: UUID = key()
    config_id: UUID = reference("configs.id", index=True)
    event: str = Field(index=True)
    properties: dict[str, Any] = document("{}")
    session_id: str | None = Field(default=None, index=True)
    user_id: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    referrer: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    timestamp: datetime = moment()
