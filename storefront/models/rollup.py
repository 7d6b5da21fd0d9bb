"""Rollups of analytics events: counts per interval of several grains, and sessions."""

from typing import ClassVar

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Identity, Index, Numeric, Uuid, text
from sqlmodel import Field

from storefront.models.columns import SQLModel, store_column


def _count_column() -> int:
    field: int = Field(sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": text("0")})
    return field


def _grain_column() -> int:
    """The length in seconds of the interval that begins at `at`."""
    field: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    return field


def _interval_start_column() -> str:
    field: str = Field(primary_key=True, sa_type=DateTime(timezone=True))
    return field


class QueuedEvents(SQLModel, table=True):
    """Keys of a store's events that are not rolled up yet. A trigger writes them with the events."""

    __tablename__ = "analytics_queue"
    # In the order of ids, whatever their stores.
    __table_args__ = (Index("analytics_queue_id_idx", "id"),)

    config_id: str = store_column()
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    ids: list[str] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    moments: list[str] = Field(sa_column=Column(ARRAY(DateTime(timezone=True)), nullable=False))


class AnalyticsSession(SQLModel, table=True):
    """A session: the time and the source of its first event, its conversion steps, and the minute of its last event.

    An empty medium or campaign means none.
    """

    __tablename__ = "analytics_sessions"
    __table_args__ = (Index("analytics_sessions_began_idx", "config_id", "began"),)

    config_id: str = store_column()
    session_id: str = Field(primary_key=True)
    began: str = Field(sa_type=DateTime(timezone=True))
    began_with: str = Field(sa_type=Uuid)
    source: str
    medium: str
    campaign: str
    clicked: bool
    carted: bool
    purchased: bool
    seen: str = Field(sa_type=DateTime(timezone=True))


class Totals(SQLModel, table=True):
    """Event counts of a store per interval, with the sessions that began in it and those whose last event is in it."""

    __tablename__ = "analytics_totals"

    config_id: str = store_column()
    grain: int = _grain_column()
    at: str = _interval_start_column()
    page_views: int = _count_column()
    product_clicks: int = _count_column()
    add_to_carts: int = _count_column()
    purchases: int = _count_column()
    searches: int = _count_column()
    sessions: int = _count_column()
    clicked_sessions: int = _count_column()
    converted_sessions: int = _count_column()
    purchased_sessions: int = _count_column()
    last_seen_sessions: int = _count_column()


class ProductTotals(SQLModel, table=True):
    """Event counts of a product per interval. Partitioned by grain: minutes, quarter-hours, hours and days."""

    __tablename__ = "analytics_products"
    __table_args__: ClassVar = {"postgresql_partition_by": "LIST (grain)"}

    config_id: str = store_column()
    grain: int = _grain_column()
    at: str = _interval_start_column()
    product_id: str = Field(sa_type=Uuid, primary_key=True)
    clicks: int = _count_column()
    add_to_carts: int = _count_column()


class PurchaseTotals(SQLModel, table=True):
    """Purchases of a product in a currency per interval, and the sum of their totals.

    `product_id`: zeros for purchases that name none. `currency`: '' for those without total or currency, whose `amount` is 0.
    """

    __tablename__ = "analytics_purchases"

    config_id: str = store_column()
    grain: int = _grain_column()
    at: str = _interval_start_column()
    product_id: str = Field(sa_type=Uuid, primary_key=True)
    currency: str = Field(primary_key=True)
    purchases: int = _count_column()
    amount: str = Field(sa_type=Numeric, nullable=False, sa_column_kwargs={"server_default": text("0")})


class SourceTotals(SQLModel, table=True):
    """Event counts of a traffic source per interval, with the sessions that began with it."""

    __tablename__ = "analytics_sources"

    config_id: str = store_column()
    grain: int = _grain_column()
    at: str = _interval_start_column()
    source: str = Field(primary_key=True)
    medium: str = Field(primary_key=True)
    campaign: str = Field(primary_key=True)
    events: int = _count_column()
    sessions: int = _count_column()
