"""What was done under a key that a client chose, so that a retry gets the first result again."""

from typing import Any

from sqlalchemy import LargeBinary

from storefront.models.columns import UUID, Field, SQLModel, datetime, document, moment


class IdempotencyKey(SQLModel, table=True):
    """One use of a key by one user. `result` is null only inside the transaction that is doing the work."""

    __tablename__ = "idempotency_keys"

    actor_id: UUID = Field(primary_key=True, foreign_key="users.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    digest: bytes = Field(sa_type=LargeBinary, nullable=False)
    result: dict[str, Any] | None = document()
    created_at: datetime = moment(index=True)
