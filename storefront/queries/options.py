"""Which option values of products have a variant, given values of their other options."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Text,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, aggregate_order_by
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.row_keys import RowKey, are_of_single_store, bind_keys, build_key_parameters, get_store, is_row_of_key
from storefront.models.variant import fold_case
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import build_variant_columns, fold_json, is_variant_of_product
from storefront.queries.paging import select_of_keys, select_per_parent
from storefront.queries.visibility import is_variant_available


class OptionMatch(NamedTuple):
    """A value that offered variants have: whether one can be bought, and the first of them, those that can be bought first."""

    is_available: bool
    variant_id: str


# By name and value, without case.
OptionMatches = Mapping[tuple[str, str], OptionMatch]


async def load_option_matches(database: Database, keys: Sequence[RowKey], selected: str) -> list[OptionMatches]:
    """The option values of each product that offered variants have. `selected`: a JSON object of names and values without case.

    A variant counts for a value if it has the selected values of all other options.
    """
    parameters = {**build_key_parameters(keys), "selected": selected}
    rows = await database.fetch(_select_matches(are_of_single_store(keys)), parameters)
    return [
        {(row.name, row.value): OptionMatch(row.is_available, row.variant_id) for row in product_rows}
        for product_rows in group_by_parent(rows, [key.id for key in keys], "product_id")
    ]


@cache
def _select_matches(is_single_store: bool) -> Statement:
    key = bind_keys(is_single_store)
    config_id = get_store(key, is_single_store)
    pair, is_in_stock = _unnest_attributes(), _is_in_stock(config_id, products)
    first = func.array_agg(
        aggregate_order_by(variants.c.id, is_in_stock.desc(), variants.c.position, variants.c.id), type_=ARRAY(UUID)
    )
    rows = select(
        variants.c.product_id,
        pair.c.key.label("name"),
        pair.c.value,
        func.bool_or(is_in_stock).label("is_available"),
        first[1].label("variant_id"),
    ).select_from(variants.join(products, is_variant_of_product(config_id)).join(pair, literal(True)))
    selected = fold_json(bindparam("selected", type_=JSONB))
    wanted = func.jsonb_each_text(selected).table_valued(column("key", Text), column("value", Text), name="wanted")
    has_value = variants.c.folded_attributes.op("->>", return_type=Text())(wanted.c.key) == wanted.c.value
    unmet = select(literal(1)).select_from(wanted).where(wanted.c.key != pair.c.key, func.coalesce(has_value, False).is_(False))
    matches = rows.where(
        ~unmet.correlate(variants, pair).exists(), is_variant_available(), is_row_of_key(products, key, is_single_store)
    ).group_by(variants.c.product_id, pair.c.key, pair.c.value)
    return compile_statement(select_per_parent(key, matches, name="matches"), depends_on=INHERITED_DEPENDENCY)


class SwatchRow(NamedTuple):
    """A swatch, with what its image is loaded by. `image`: one of the product's, or None."""

    color: str | None
    image: str | None
    image_alt: str | None
    config_id: str


@dataclass(frozen=True, slots=True)
class ProductSwatches:
    """The swatches of a product: JSON by name and value without case, of the values that have one."""

    config_id: str
    by_name: Mapping[str, Mapping[str, Mapping[str, str | None]]]
    images: Sequence[str]
    image_alts: Mapping[str, str]

    def find(self, name: str, value: str) -> SwatchRow | None:
        """The swatch of a value of an option, in any case."""
        # An option has null without any swatch.
        swatch = (self.by_name.get(fold_case(name)) or {}).get(fold_case(value))
        return build_swatch(swatch, self.config_id, self.images, self.image_alts)


def build_swatch(
    swatch: Mapping[str, str | None] | None, config_id: str, images: Container[str], image_alts: Mapping[str, str]
) -> SwatchRow | None:
    """The swatch of an option value, without an image that the product no longer has."""
    if swatch is None:
        return None
    image = swatch["image"] if swatch["image"] in images else None
    return SwatchRow(swatch["color"], image, image_alts.get(image or ""), config_id)


async def load_swatches(database: Database, keys: Sequence[RowKey]) -> list[ProductSwatches | None]:
    """The swatches of each product; None for one that was deleted."""
    rows = await database.fetch(_select_swatches(are_of_single_store(keys)), build_key_parameters(keys))
    return [
        row and ProductSwatches(row.config_id, row.swatches or {}, row.images, row.image_alts)
        for row in align_by_key(rows, [key.id for key in keys])
    ]


@cache
def _select_swatches(is_single_store: bool) -> Statement:
    swatches = select_swatches(products).scalar_subquery().label("swatches")
    rows = select(products.c.id, products.c.config_id, products.c.images, products.c.image_alts, swatches)
    return compile_statement(select_of_keys(rows, products, is_single_store), depends_on=INHERITED_DEPENDENCY)


def select_swatches(product: FromClause) -> Select[tuple[object, ...]]:
    """The swatches of a product as one JSON object: `swatches`, by name and value without case; null without options.

    Correlated.
    """
    item = column("value", JSONB)
    option = func.jsonb_array_elements(product.c.options).table_valued(item, name="option")
    value = func.jsonb_array_elements(option.c.value["values"]).table_valued(item, name="option_value")
    name, folded_value = func.lower(option.c.value["name"].astext), func.lower(value.c.value["value"].astext)
    of_option = select(func.jsonb_object_agg(folded_value, value.c.value["swatch"])).select_from(value)
    by_value = of_option.where(is_swatch(value.c.value["swatch"])).correlate(option).scalar_subquery()
    return select(func.jsonb_object_agg(name, by_value, type_=JSONB).label("swatches")).select_from(option).correlate(product)


def is_swatch(swatch: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a value of an option has a swatch, given the JSON of its `swatch`."""
    return func.jsonb_typeof(swatch) == literal_column("'object'")


def select_offered_variants(config_id: ColumnElement[object], product: FromClause) -> Select[tuple[object, ...]]:
    """The `folded_attributes` of the offered variants of a product of this store, each with `in_stock`. Correlated."""
    rows = select(variants.c.folded_attributes, _is_in_stock(config_id, product))
    return rows.where(is_variant_of_product(config_id, product), is_variant_available()).correlate(product)


def _unnest_attributes() -> TableValuedAlias:
    """The names and values of the attributes of a variant, without case."""
    columns = column("key", Text), column("value", Text)
    return func.jsonb_each_text(variants.c.folded_attributes).table_valued(*columns, name="pair")


def _is_in_stock(config_id: ColumnElement[object], product: FromClause) -> ColumnElement[Any]:
    [in_stock] = build_variant_columns(["in_stock"], config_id, product, is_owner=False)
    return in_stock
