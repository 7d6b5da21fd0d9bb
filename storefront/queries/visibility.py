"""Visibility rules in SQL: what owners and shoppers may read."""

from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, any_, bindparam, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.models import configs, products, reviews, variants

# A literal: a generic plan with a parameter could not use the partial indexes of active products.
ACTIVE_STATUS: ColumnElement[str] = literal_column("'active'")


class Audience(Enum):
    """The audience of a read. Shoppers see a published store's active products and their available variants; owners see all."""

    SHOPPER = "shopper"
    OWNER = "owner"


def any_of_ids(name: str) -> ColumnElement[bool]:
    """`ANY` of an array parameter of ids, to compare a column with."""
    return any_(bindparam(name, type_=ARRAY(UUID)))


def is_store_visible(config: FromClause = configs) -> ColumnElement[bool]:
    """Whether a store is published or owned by the viewer. Parameter `owned`."""
    return or_(config.c.is_published, config.c.id == any_of_ids("owned"))


def is_product_visible(config_id: ColumnElement[Any], product: FromClause = products) -> ColumnElement[bool]:
    """Whether a product of this store is active in it while it is published, or the viewer's. Parameter `owned`."""
    is_own = config_id == any_of_ids("owned")
    return or_(and_(product.c.status == ACTIVE_STATUS, is_store_published(config_id)), is_own)


def is_store_published(config_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the store with this id is published."""
    store = configs.alias()
    return select(store.c.id).where(store.c.id == config_id, store.c.is_published).correlate_except(store).exists()


def is_product_sellable(product: FromClause = products) -> ColumnElement[bool]:
    """Whether a product is active: the rule for related products, for owners too."""
    return product.c.status == ACTIVE_STATUS


def is_variant_available(variant: FromClause = variants) -> ColumnElement[bool]:
    """Whether a variant may be bought, regardless of stock."""
    return variant.c.is_available.is_(True)


def is_review_published() -> ColumnElement[bool]:
    """Whether shoppers may read a review, if its product is visible to them."""
    return reviews.c.status == _PUBLISHED_STATUS


def is_review_visible(config_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a review of this store is published, by the viewer, or in their store. Parameters `viewer_id` and `owned`."""
    is_own = reviews.c.user_id == bindparam("viewer_id", type_=UUID)
    return or_(is_review_published(), is_own, config_id == any_of_ids("owned"))


# A literal, for the partial indexes of published reviews.
_PUBLISHED_STATUS: ColumnElement[str] = literal_column("'published'")
