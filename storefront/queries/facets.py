"""Facets: the number of products per value. A facet ignores its own filter, so that sibling values keep their counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Numeric,
    Select,
    Text,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, array

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.row_keys import depend_on_stores
from storefront.queries.batching import group_by_parent
from storefront.queries.fields import is_variant_of_product
from storefront.queries.listing import (
    Selection,
    StatementShape,
    StoreScope,
    build_parent_rows,
    build_product_source,
    get_parent_store,
    has_price_between,
    has_requested_attributes,
)
from storefront.queries.visibility import is_variant_available

# A facet lists its most frequent values only.
MAX_FACET_VALUES = 100

# Between texts in one: no text of a product has a control character.
TEXT_SEPARATOR = "\x1f"

# Average ratings that products may have at least.
MIN_RATINGS = (4, 3, 2, 1)

# The filters that a facet ignores in its counts.
FILTERS_BY_FACET = {
    "categories": ("categories",),
    "category_texts": ("categories",),
    "vendors": ("vendors",),
    "product_types": ("product_types",),
    "tags": ("tags",),
    "availability": ("in_stock",),
    "price": ("min_price", "max_price"),
    "price_buckets": ("min_price", "max_price"),
    "ratings": ("min_rating",),
    "attributes": ("attributes",),
}


async def load_facet_values(
    database: Database, facet: str, scopes: Sequence[StoreScope], selection: Selection, **facet_parameters: Any
) -> list[list[Row]]:
    """For each scope the facet's rows: `value` and `count`; for price one row `min`, `max`.

    For category texts one row: `texts`, with TEXT_SEPARATOR between them, and `counts`, with commas; null without any.
    For attributes also `name`, and `product_id`: the oldest of the counted products.

    For price buckets `min`, `max` and `count`; `facet_parameters` has their `fractions`.
    """
    counted_selection = selection.without_filters(*FILTERS_BY_FACET[facet])
    parameters = counted_selection.build_parameters(scopes) | facet_parameters
    if facet == "attributes":
        parameters |= {"attributes": dict(selection.filters).get("attributes", "{}")}
    rows = await database.fetch(_select_facet(facet, StatementShape.from_selection(counted_selection, scopes)), parameters)
    return group_by_parent(rows, range(1, len(scopes) + 1))


def list_fractions(count: int) -> list[float]:
    """The fractions of products below the limits between so many price buckets."""
    return [number / count for number in range(1, count)]


@cache
def _select_facet(facet: str, shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    facet_products = FacetProducts(source, conditions, parent, get_parent_store(shape, parent))
    facet_rows = _FACET_BUILDERS[facet](facet_products).lateral("counted")
    return compile_statement(
        select(parent.c.number.label("parent_id"), facet_rows).select_from(parent.join(facet_rows, true())),
        depends_on=depend_on_stores(shape.is_single_store),
    )


@dataclass(frozen=True, slots=True)
class FacetProducts:
    """The products of a parent row that a facet counts."""

    source: FromClause
    conditions: list[ColumnElement[bool]]
    parent: FromClause
    config_id: ColumnElement[Any]

    def select(self, *columns: ColumnElement[Any], joined_with: FromClause | None = None) -> Select[Any]:
        """Columns of the products, or of rows joined with them."""
        source = self.source if joined_with is None else self.source.join(joined_with, true())
        return select(*columns).select_from(source).where(*self.conditions).correlate(self.parent)


def _select_categories(facet_products: FacetProducts) -> Select[Any]:
    """Paths of categories, and of those above them."""
    # Grouped by an index before the paths are computed: there are fewer texts than products.
    counted = _count_category_texts(facet_products).subquery("counted_text")
    path = (
        func.unnest(func.storefront_list_category_paths(counted.c.value))
        .table_valued(column("value", Text))
        .render_derived(name="path")
    )
    count = func.sum(counted.c.count).cast(BigInteger).label("count")
    rows = select(path.c.value, count).select_from(counted.join(path, true())).group_by(path.c.value)
    return rows.order_by(count.desc(), _sort_by_code_point(path.c.value)).limit(literal(MAX_FACET_VALUES))


def _count_category_texts(facet_products: FacetProducts) -> Select[Any]:
    category = products.c.category
    rows = facet_products.select(category.label("value"), func.count().label("count"))
    return rows.where(category.is_not(None)).group_by(category)


def _join_category_texts(facet_products: FacetProducts) -> Select[Any]:
    """All texts as one, and their numbers of products as another: thousands of rows would take as long as counting them."""
    counted = _count_category_texts(facet_products).subquery("counted_text")
    texts = func.string_agg(counted.c.value, literal_column(f"E'\\x{ord(TEXT_SEPARATOR):02x}'")).label("texts")
    return select(texts, func.string_agg(counted.c.count.cast(Text), literal_column("','")).label("counts"))


def _select_texts(column: ColumnElement[str], facet_products: FacetProducts) -> Select[Any]:
    return _select_most_frequent(facet_products.select(column.label("value")).where(column.is_not(None)))


def _select_tags(facet_products: FacetProducts) -> Select[Any]:
    tag = func.jsonb_array_elements_text(products.c.tags).table_valued("value", name="tag")
    return _select_most_frequent(facet_products.select(tag.c.value, joined_with=tag))


def _select_availability(facet_products: FacetProducts) -> Select[Any]:
    return _select_most_frequent(facet_products.select(products.c.in_stock.label("value")))


def _select_price_range(facet_products: FacetProducts) -> Select[Any]:
    # Of available variants, as the filters.
    ends = func.min(products.c.price).label("min"), func.max(products.c.max_price).label("max")
    return facet_products.select(*ends).where(products.c.variants_available > 0)


def _select_price_buckets(facet_products: FacetProducts) -> Select[Any]:
    """Price ranges with round limits, each of about as many products.

    The limits are quantiles of the lowest prices, rounded to one significant digit: of themselves, or of a fifth of the
    difference between the lowest and the highest price, whichever is finer.
    """
    is_sellable = products.c.variants_available > 0
    fractions = bindparam("fractions", type_=ARRAY(Double))
    quantiles = func.percentile_disc(fractions).within_group(products.c.price.asc()).label("quantiles")
    ends = func.min(products.c.price).label("lowest"), func.max(products.c.max_price).label("highest")
    prices = facet_products.select(quantiles, *ends).where(is_sellable).subquery("prices")
    quantile = func.unnest(prices.c.quantiles).table_valued(column("value", Numeric)).render_derived(name="quantile")
    magnitudes = (_get_magnitude(value) for value in (quantile.c.value, (prices.c.highest - prices.c.lowest) / 5))
    rounded = func.round(quantile.c.value, -func.least(*magnitudes).cast(Integer))
    # With the decimal places of a price.
    candidate = select((rounded + 0 * quantile.c.value).label("value"), *(prices.c[name] for name in ("lowest", "highest")))
    candidates = candidate.select_from(prices.join(quantile, true())).subquery("candidate")
    is_inside = (candidates.c.value > candidates.c.lowest) & (candidates.c.value <= candidates.c.highest)
    value = candidates.c.value
    limits = func.array_agg(aggregate_order_by(value.distinct(), value.asc()), type_=ARRAY(Numeric)).label("limits")
    # One row, whose array is null without limits: then there are no ranges either.
    found = select(limits).where(is_inside).subquery("found")
    number = func.generate_series(0, func.cardinality(found.c.limits)).table_valued("n").render_derived(name="number")
    # Null before the first and behind the last limit.
    low, high = (found.c.limits[number.c.n + offset].label(name) for offset, name in enumerate(("min", "max")))
    buckets = select(low, high).select_from(found.join(number, true())).subquery("bucket")
    lowest, highest = buckets.c.min, buckets.c.max
    counted = facet_products.select(func.count()).where(
        is_sellable,
        lowest.is_(None) | (products.c.max_price >= lowest),
        highest.is_(None) | (products.c.price <= highest),
        lowest.is_(None) | highest.is_(None) | has_price_between(facet_products.config_id, lowest, highest),
    )
    return select(lowest, highest, counted.correlate(facet_products.parent, buckets).scalar_subquery().label("count"))


def _get_magnitude(number: ColumnElement[Any]) -> ColumnElement[Any]:
    """The power of ten of a number's first digit; null for zero."""
    return func.floor(func.log(func.nullif(number, 0)))


def _select_ratings(facet_products: FacetProducts) -> Select[Any]:
    counts = [func.count().filter(products.c.rating >= minimum) for minimum in MIN_RATINGS]
    return facet_products.select(array(counts).label("counts"))


def _select_attributes(facet_products: FacetProducts) -> Select[Any]:
    pair = func.json_each_text(variants.c.attributes).table_valued(column("key", Text), column("value", Text), name="pair")
    variant_pairs = variants.join(pair, true())
    # Each pair counts once per product, however many variants have it, and whatever its case. A name is counted under the filters
    # of the other names: choosing a size narrows the colours, not the sizes.
    folded = [func.lower(pair.c.key).label("folded_name"), func.lower(pair.c.value).label("folded_value")]
    spellings = [
        _find_first_written(text, variants.c.id).label(name) for name, text in (("name", pair.c.key), ("value", pair.c.value))
    ]
    pairs = facet_products.select(products.c.id, *folded, *spellings, joined_with=variant_pairs)
    matching_pairs = pairs.where(
        is_variant_of_product(facet_products.config_id),
        is_variant_available(),
        has_requested_attributes(excluded_name=folded[0]),
    )
    row = matching_pairs.group_by(products.c.id, *folded).subquery("row")
    keys = [row.c.folded_name, row.c.folded_value]
    # Of all values of one name, one spelling.
    first_name = func.min(func.min(row.c.name)).over(partition_by=row.c.folded_name)
    spelled = {"name": first_name, "value": func.min(row.c.value)}
    columns = [func.substring(text, _KEY_CHARACTERS + 1).label(name) for name, text in spelled.items()]
    columns.append(func.min(row.c.id.cast(Text)).label("product_id"))
    count = func.count().label("count")
    return (
        select(*columns, count)
        .group_by(*keys)
        .order_by(count.desc(), *map(_sort_by_code_point, keys))
        .limit(literal(MAX_FACET_VALUES))
    )


# Of the text of an id. Ids ascend with time.
_KEY_CHARACTERS = 36


def _find_first_written(text: ColumnElement[str], key: ColumnElement[str]) -> ColumnElement[str]:
    """Aggregate: the text of the row with the lowest key, after that key."""
    return func.min(key.cast(Text) + text)


def _select_most_frequent(rows: Select[Any]) -> Select[Any]:
    value = rows.subquery("row").c.value
    count = func.count().label("count")
    order = count.desc(), _sort_by_code_point(value)
    return select(value, count).group_by(value).order_by(*order).limit(literal(MAX_FACET_VALUES))


def _sort_by_code_point(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """A sort key of texts that is the same in every database, and in Python."""
    return value if isinstance(value.type, Boolean) else value.collate("C")


_FACET_BUILDERS: dict[str, Callable[[FacetProducts], Select[Any]]] = {
    "categories": _select_categories,
    "category_texts": _join_category_texts,
    "vendors": partial(_select_texts, products.c.vendor),
    "product_types": partial(_select_texts, products.c.product_type),
    "tags": _select_tags,
    "availability": _select_availability,
    "price": _select_price_range,
    "price_buckets": _select_price_buckets,
    "ratings": _select_ratings,
    "attributes": _select_attributes,
}
