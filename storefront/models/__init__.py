"""One table per noun, as SQLModel. Foreign keys by name; no ORM relationships: loaders are the only way across."""

from typing import cast

from sqlalchemy import Table
from sqlmodel import SQLModel

from storefront.models.change import Change, StorePosition
from storefront.models.config import Config
from storefront.models.event import AnalyticsEvent
from storefront.models.idempotency import IdempotencyKey
from storefront.models.product import Product
from storefront.models.review import Review
from storefront.models.user import User
from storefront.models.variant import ProductVariant

metadata = SQLModel.metadata


def _table(model: type[SQLModel]) -> Table:
    return cast(Table, getattr(model, "__table__"))  # noqa: B009  SQLModel does not declare it for the type checker


users = _table(User)
configs = _table(Config)
products = _table(Product)
variants = _table(ProductVariant)
reviews = _table(Review)
events = _table(AnalyticsEvent)
changes = _table(Change)
positions = _table(StorePosition)
idempotency_keys = _table(IdempotencyKey)

__all__ = [
    "AnalyticsEvent",
    "Change",
    "Config",
    "IdempotencyKey",
    "Product",
    "ProductVariant",
    "Review",
    "StorePosition",
    "User",
    "changes",
    "configs",
    "events",
    "idempotency_keys",
    "metadata",
    "positions",
    "products",
    "reviews",
    "users",
    "variants",
]
