"""Webhooks and their deliveries."""

from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Column, Index, Text, text

from storefront.models.columns import (
    Field,
    SQLModel,
    Uuid,
    integer_column,
    json_column,
    reference_in_store,
    store_column,
    timestamp_column,
    uuid_key_column,
)


def _text_array_column() -> Any:
    return Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))


class Webhook(SQLModel, table=True):
    """A webhook: a URL that receives a store's changes. Deliveries are stored for the log up to `position`.

    `resting_until` is the backoff while deliveries fail. One process holds the lease, until `leased_until`.
    """

    __tablename__ = "webhooks"
    __table_args__ = (CheckConstraint("read_as IN ('shopper', 'owner')", name="read_as"), Index("webhooks_id_idx", "id"))

    config_id: str = store_column()
    id: str = uuid_key_column()
    url: str
    topics: list[str] = _text_array_column()
    query: str | None = None
    read_as: str
    # Signing secrets, encrypted. The previous one stays valid until `previous_until`.
    secret: str
    previous_secret: str | None = None
    previous_until: str | None = timestamp_column(nullable=True)
    position: int = Field(sa_type=BigInteger, nullable=False)
    version: int = integer_column(1)
    # The version that last changed each field of the API; a field that is missing has its first value. The log has no entries of
    # webhooks by which updates could be merged.
    field_versions: dict[str, int] = json_column("{}")
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()
    disabled_at: str | None = timestamp_column(nullable=True)
    disabled_reason: str | None = None
    failures: int = integer_column(0)
    failing_since: str | None = timestamp_column(nullable=True)
    resting_until: str | None = timestamp_column(nullable=True)
    tested_at: str | None = timestamp_column(nullable=True)
    leased_by: str | None = None
    leased_until: str | None = timestamp_column(nullable=True)


class WebhookDelivery(SQLModel, table=True):
    """A delivery of a webhook, with its attempts. Deliveries of one lane are sent in order, one at a time.

    The first pending one of a lane has a `next_attempt_at`; those behind it have none.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        reference_in_store("webhook_id", "webhooks"),
        Index("webhook_deliveries_id_idx", "id"),
        Index("webhook_deliveries_newest_idx", "config_id", "webhook_id", "created_at", "id"),
        Index(
            "webhook_deliveries_due_idx",
            "config_id",
            "webhook_id",
            "next_attempt_at",
            postgresql_where=text("next_attempt_at IS NOT NULL"),
        ),
        Index(
            *("webhook_deliveries_lane_idx", "config_id", "webhook_id", "lane", "position", "id"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index("webhook_deliveries_finished_idx", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    config_id: str = store_column(is_reference=False)
    id: str = uuid_key_column()
    webhook_id: str = Field(sa_type=Uuid, nullable=False)
    type: str
    position: int = Field(sa_type=BigInteger, nullable=False)
    lane: str = Field(sa_type=Uuid)
    product_id: str | None = Field(default=None, sa_type=Uuid)
    changed_fields: list[str] = _text_array_column()
    client_mutation_id: str | None = None
    # The reason of a reset.
    reason: str | None = None
    occurred_at: str = timestamp_column()
    state: str = Field(nullable=False, sa_column_kwargs={"server_default": text("'pending'")})
    attempts: int = integer_column(0)
    # The last attempts: {"at", "status", "milliseconds", "error"}.
    tries: list[dict[str, Any]] = json_column("[]")
    next_attempt_at: str | None = timestamp_column(nullable=True)
    created_at: str = timestamp_column()
    finished_at: str | None = timestamp_column(nullable=True)
