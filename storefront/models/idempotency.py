"""Idempotency keys with the stored result that a retry receives."""

from typing import Any

from sqlalchemy import LargeBinary

from storefront.models.columns import Field, SQLModel, Uuid, json_column, timestamp_column


class IdempotencyKey(SQLModel, table=True):
    """One key of one user. `result` is null only inside the transaction that runs the mutation."""

    __tablename__ = "idempotency_keys"

    actor_id: str = Field(sa_type=Uuid, primary_key=True, foreign_key="users.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    digest: bytes = Field(sa_type=LargeBinary, nullable=False)
    result: dict[str, Any] | None = json_column()
    created_at: str = timestamp_column(index=True)
