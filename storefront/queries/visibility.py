"""Visibility rules in SQL: what owners and shoppers may read."""

from enum import Enum

from sqlalchemy import ColumnElement, FromClause, and_, any_, bindparam, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.models import configs, products, variants

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


def is_product_visible(product: FromClause = products) -> ColumnElement[bool]:
    """Whether a product is active in a published store, or in a store of the viewer. Parameter `owned`."""
    published_store = select(configs.c.id).where(configs.c.id == product.c.config_id, configs.c.is_published)
    return or_(and_(product.c.status == ACTIVE_STATUS, published_store.exists()), product.c.config_id == any_of_ids("owned"))


def is_product_sellable(product: FromClause = products) -> ColumnElement[bool]:
    """Whether a product is active: the rule for related products, for owners too."""
    return product.c.status == ACTIVE_STATUS


def is_variant_available(variant: FromClause = variants) -> ColumnElement[bool]:
    """Whether a variant may be bought, regardless of stock."""
    return variant.c.is_available.is_(True)
