"""The log: every committed change of a store, numbered in commit order."""

from typing import Any

from sqlalchemy import ARRAY, BigInteger, Column, Index, Text, text

from storefront.models.columns import Field, SQLModel, Uuid, json_column, store_column, timestamp_column


class StorePosition(SQLModel, table=True):
    """The last position of a store's log. Its row lock, held until commit, makes positions gapless and in commit order."""

    __tablename__ = "store_positions"

    config_id: str = store_column()
    position: int = Field(sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": text("0")})


class Change(SQLModel, table=True):
    """A log entry. `was_visible` and `is_visible` decide whether shoppers receive a creation, update, deletion or nothing.

    `former_product` and `former_variants`: what filters depend on, as it was before an update (`former_values.py`).
    """

    __tablename__ = "changes"
    __table_args__ = (
        Index("changes_entity_idx", "config_id", "entity_id", "version"),
        Index("changes_product_idx", "config_id", "product_id", "position"),
    )

    config_id: str = store_column()
    position: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    kind: str
    entity_id: str = Field(sa_type=Uuid)
    product_id: str | None = Field(default=None, sa_type=Uuid)
    version: int | None = None
    was_visible: bool
    is_visible: bool
    changed_fields: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    actor_id: str | None = Field(default=None, sa_type=Uuid)
    client_mutation_id: str | None = None
    occurred_at: str = timestamp_column()
    former_product: dict[str, Any] | None = json_column()
    former_variants: dict[str, dict[str, Any] | None] | None = json_column()
