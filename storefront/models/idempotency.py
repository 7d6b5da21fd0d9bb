"""What was done under a key that a client chose, so that a retry gets the first result again."""

from typing import Any

from sqlalchemy import LargeBinary

from storefront.models.columns import UUID, Field, SQLModel, datetime, json_column, timestamp_column


class IdempotencyKey(SQLModel, table=True):
    """One use of a key by one user. `result` is null only inside the transaction that is doing the work."""

    __tablename__ = "idempotency_keys"

    actor_id: UUID = Field(primary_key=True, foreign_key="users.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    digest: bytes = Field(sa_type=LargeBinary, nullable=False)
    result: dict[str, Any] | None = json_column()
    created_at: datetime = timestamp_column(index=True)
