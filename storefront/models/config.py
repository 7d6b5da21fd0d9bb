"""Stores and their configuration."""

from typing import Any

from sqlalchemy import CheckConstraint, Index, text

from storefront.models.columns import (
    Field,
    SQLModel,
    enum_column,
    foreign_key_column,
    integer_column,
    json_column,
    store_column,
    timestamp_column,
    uuid_key_column,
)

DEFAULT_CURRENCY = "USD"
MAX_STORE_DESCRIPTION_CHARACTERS = 10_000
# What `normalize_handle` leaves of ASCII. Letters of other scripts are not checked again.
SLUG_CHECK_SQL = r"slug <> '' AND slug !~ '[\x01-\x2c\x2e\x2f\x3a-\x60\x7b-\x7f]|^-|--|-$'"


class IntegrationCheck(SQLModel, table=True):
    """The last connection check of a store's integration."""

    __tablename__ = "integration_checks"

    config_id: str = store_column()
    integration: str = Field(primary_key=True)
    checked_at: str = timestamp_column()


class Config(SQLModel, table=True):
    """A store: name, theme, layout and integrations. Visible to shoppers once published."""

    __tablename__ = "configs"
    __table_args__ = (
        Index("configs_newest_idx", "created_at", "id"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint(SLUG_CHECK_SQL, name="slug"),
        CheckConstraint("review_policy IN ('publish', 'moderate')", name="review_policy"),
        CheckConstraint("(layout ->> 'gridColumns') IN ('2', '3', '4')", name="grid_columns"),
    )

    id: str = uuid_key_column()
    user_id: str = foreign_key_column("users.id", index=True)
    store_name: str
    slug: str = Field(unique=True)
    description: str | None = None
    currency: str = Field(nullable=False, sa_column_kwargs={"server_default": text(f"'{DEFAULT_CURRENCY}'")})
    theme: dict[str, Any] | None = json_column()
    layout: dict[str, Any] | None = json_column()
    integrations: dict[str, Any] | None = json_column()
    # Where the shop shows a product: `core/url_templates.py` has its form.
    product_url_template: str | None = None
    # How new and edited reviews are published.
    review_policy: str = enum_column("publish")
    is_published: bool = Field(nullable=False, index=True, sa_column_kwargs={"server_default": text("false")})
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()
