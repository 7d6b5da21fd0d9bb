"""Analytics events of shoppers."""

from typing import Any

from sqlalchemy import Index, PrimaryKeyConstraint, text
from sqlmodel import Field

from storefront.core.ids import uuid7
from storefront.models.columns import SQLModel, Uuid, boolean_column, json_column, store_column, timestamp_column


class AnalyticsEvent(SQLModel, table=True):
    """An event of a store, partitioned by month. `ip_address` is stored truncated."""

    __tablename__ = "analytics_events"
    __table_args__ = (
        PrimaryKeyConstraint("config_id", "timestamp", "id"),
        Index("analytics_events_session_idx", "config_id", "session_id"),
        {"postgresql_partition_by": 'RANGE ("timestamp")'},
    )

    # No foreign key: the event queue has one, checked once per batch. A trigger deletes the events of a deleted store.
    config_id: str = store_column(is_reference=False)
    id: str = Field(sa_type=Uuid, default_factory=uuid7, primary_key=True)
    event: str
    properties: dict[str, Any] = json_column("{}")
    session_id: str | None = None
    user_id: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    referrer: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    is_bot: bool = boolean_column(default=False)
    timestamp: str = timestamp_column(primary_key=True)


class EventId(SQLModel, table=True):
    """A client-chosen event id, for deduplication: an event sent again within the retention of ids is ignored."""

    __tablename__ = "analytics_event_ids"
    __table_args__ = (Index("analytics_event_ids_received_at_idx", text("received_at"), postgresql_using="brin"),)

    config_id: str = store_column(is_reference=False)
    id: str = Field(sa_type=Uuid, primary_key=True)
    received_at: str = timestamp_column()
