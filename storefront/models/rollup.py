"""What events come to: counts by stretches of time of several lengths, and the sessions that they were in."""

from typing import ClassVar

from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Identity, Index, Uuid, text
from sqlmodel import Field

from storefront.models.columns import UUID, SQLModel, datetime, foreign_key_column


def _count_column() -> int:
    field: int = Field(sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": text("0")})
    return field


def _grain_column() -> int:
    """How many seconds are counted together, from `at` on."""
    field: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    return field


def _interval_start_column() -> datetime:
    field: datetime = Field(primary_key=True, sa_type=DateTime(timezone=True))
    return field


class QueuedEvents(SQLModel, table=True):
    """The keys of events of one store that are not counted yet. Written by a trigger, with the events."""

    __tablename__ = "analytics_queue"

    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    config_id: UUID = foreign_key_column("configs.id")
    ids: list[UUID] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    moments: list[datetime] = Field(sa_column=Column(ARRAY(DateTime(timezone=True)), nullable=False))


class AnalyticsSession(SQLModel, table=True):
    """A visit: when and from where it began, by its first event, what was done in it, and the minute that it was last seen in.

    '' stands for no medium or campaign.
    """

    __tablename__ = "analytics_sessions"
    __table_args__ = (Index("analytics_sessions_began_idx", "config_id", "began"),)

    config_id: UUID = foreign_key_column("configs.id", primary_key=True)
    session_id: str = Field(primary_key=True)
    began: datetime = Field(sa_type=DateTime(timezone=True))
    began_with: UUID
    source: str
    medium: str
    campaign: str
    clicked: bool
    carted: bool
    purchased: bool
    seen: datetime = Field(sa_type=DateTime(timezone=True))


class Totals(SQLModel, table=True):
    """All events of a store, the sessions that began, and those that were seen there last."""

    __tablename__ = "analytics_totals"

    config_id: UUID = foreign_key_column("configs.id", primary_key=True)
    grain: int = _grain_column()
    at: datetime = _interval_start_column()
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
    """The events of one product. Grains of minutes, quarters, hours and days are in tables of their own."""

    __tablename__ = "analytics_products"
    __table_args__: ClassVar = {"postgresql_partition_by": "LIST (grain)"}

    config_id: UUID = foreign_key_column("configs.id", primary_key=True)
    grain: int = _grain_column()
    at: datetime = _interval_start_column()
    product_id: UUID = Field(primary_key=True)
    clicks: int = _count_column()
    add_to_carts: int = _count_column()


class SourceTotals(SQLModel, table=True):
    """The events from one origin, and the sessions that began with one of them."""

    __tablename__ = "analytics_sources"

    config_id: UUID = foreign_key_column("configs.id", primary_key=True)
    grain: int = _grain_column()
    at: datetime = _interval_start_column()
    source: str = Field(primary_key=True)
    medium: str = Field(primary_key=True)
    campaign: str = Field(primary_key=True)
    events: int = _count_column()
    sessions: int = _count_column()
