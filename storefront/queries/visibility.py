"""Who sees what: the one place that says it in SQL."""

from enum import Enum

from sqlalchemy import ColumnElement, FromClause, and_, any_, bindparam, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.models import configs, products, variants

# Written out: with a parameter in its place, a plan for all values may not use the indexes of active products.
ACTIVE_STATUS: ColumnElement[str] = literal_column("'active'")


class Audience(Enum):
    """For whom a store is read. A shopper sees a published store's active products and their available variants."""

    SHOPPER = "shopper"
    OWNER = "owner"


def any_of_ids(name: str) -> ColumnElement[bool]:
    """A parameter that holds a list of keys, to compare a column with."""
    return any_(bindparam(name, type_=ARRAY(UUID)))


def is_store_visible(config: FromClause = configs) -> ColumnElement[bool]:
    """Published, or among the asker's own: parameter `owned`."""
    return or_(config.c.is_published, config.c.id == any_of_ids("owned"))


def is_product_visible(product: FromClause = products) -> ColumnElement[bool]:
    """Active in a published store, or in one of the asker's own: parameter `owned`."""
    published_store = select(configs.c.id).where(configs.c.id == product.c.config_id, configs.c.is_published)
    return or_(and_(product.c.status == ACTIVE_STATUS, published_store.exists()), product.c.config_id == any_of_ids("owned"))


def is_product_sellable(product: FromClause = products) -> ColumnElement[bool]:
    """What shoppers and owners alike see in a row of other products."""
    return product.c.status == ACTIVE_STATUS


def is_variant_available(variant: FromClause = variants) -> ColumnElement[bool]:
    """A variant that may be bought, stock aside."""
    return variant.c.is_available.is_(True)
