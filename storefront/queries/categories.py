"""The category tree of a store: a node for each part of the paths that its products have as their category."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import NamedTuple

from sqlalchemy import any_, func, select, text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import category_details, products
from storefront.models.categories import split_category
from storefront.models.row_keys import bind_store_type, build_store_parameters, depend_on_stores, have_single_store, is_any_store
from storefront.queries.batching import bind_text_array, group_by_parent
from storefront.queries.facets import TEXT_SEPARATOR, load_facet_values
from storefront.queries.listing import Selection, StoreScope
from storefront.queries.search import build_name_matcher
from storefront.queries.visibility import Audience, is_product_sellable, is_store_published

# The names from the root to a node.
Names = tuple[str, ...]


class CategoryKey(NamedTuple):
    """A category: its store and its path."""

    config_id: str
    path: str


@dataclass(slots=True)
class CategoryNode:
    """A category: its products are those in it and below it. `children`: those with the most products first."""

    names: Names
    product_count: int = 0
    children: list["CategoryNode"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CategoryTree:
    """The categories of a store by their names, and those at the top level, with the most products first."""

    nodes: Mapping[Names, CategoryNode]
    roots: Sequence[CategoryNode]


async def load_category_trees(database: Database, config_ids: Sequence[str], audience: Audience) -> list[CategoryTree]:
    """The tree of each store, of the products that the audience can see, in one statement."""
    scopes = [StoreScope(config_id) for config_id in config_ids]
    counts = await load_facet_values(database, "category_texts", scopes, Selection(audience))
    return [_find_tree(row.texts or "", row.counts or "") for [row] in counts]


def _find_tree(texts: str, counts: str) -> CategoryTree:
    build = _build_cached_tree if len(texts) >= MIN_CACHED_CHARACTERS else _build_tree
    return build(texts, counts)


def _build_tree(texts: str, counts: str) -> CategoryTree:
    # Parents come before their children.
    nodes: dict[Names, CategoryNode] = {(): CategoryNode(())}
    for category, count in zip(texts.split(TEXT_SEPARATOR), counts.split(","), strict=True):
        if names := split_category(category):
            (nodes.get(names) or _add_node(nodes, names)).product_count += int(count)
    for names, node in reversed(nodes.items()):
        if names:
            nodes[names[:-1]].product_count += node.product_count
        if len(node.children) > 1:
            node.children.sort(key=_get_sort_key)
    return CategoryTree(nodes, nodes.pop(()).children)


# By what a tree is built from, which changes seldom, and is compared in a hundredth of the time. Nothing changes a tree. One of
# 5,000 nodes has 2 MB.
MAX_CACHED_TREES, MIN_CACHED_CHARACTERS = 16, 10_000
_build_cached_tree = lru_cache(MAX_CACHED_TREES)(_build_tree)


def _add_node(nodes: dict[Names, CategoryNode], names: Names) -> CategoryNode:
    parent = nodes.get(names[:-1]) or _add_node(nodes, names[:-1])
    node = nodes[names] = CategoryNode(names)
    parent.children.append(node)
    return node


def _get_sort_key(node: CategoryNode) -> tuple[int, Names]:
    return -node.product_count, node.names


async def load_category_details(database: Database, keys: Sequence[CategoryKey]) -> list[Row | None]:
    """What the owner has added to each category; None where that is nothing."""
    config_ids = [key.config_id for key in keys]
    parameters = {**build_store_parameters(config_ids), "paths": [key.path for key in keys]}
    rows = await database.fetch(_select_details(have_single_store(config_ids)), parameters)
    # Of several stores, more than was asked for where two have the same path.
    row_by_key = {CategoryKey(row.config_id, row.path): row for row in rows}
    return [row_by_key.get(key) for key in keys]


@cache
def _select_details(is_single_store: bool) -> Statement:
    query = select(*category_details.c).where(
        is_any_store(category_details.c.config_id, is_single_store), category_details.c.path == any_(bind_text_array("paths"))
    )
    return compile_statement(query, depends_on=depend_on_stores(is_single_store))


# Of a store with more categories than these, the first ones in alphabetical order are searched.
_MAX_SEARCHED_TEXTS = 1_000


async def search_categories(
    database: Database, scopes: Sequence[StoreScope], selection: Selection, limit: int
) -> list[list[Names]]:
    """For each scope, the categories whose names have the words of its search, those with the most products first."""
    search, audience = selection.search, selection.audience
    if search is None:
        return [[] for _ in scopes]
    stores = [scope.config_id for scope in scopes]
    matches = list[dict[str, list[Names]]]()
    for scope, texts in zip(scopes, await _load_texts(database, stores, audience), strict=True):
        has_words = build_name_matcher(scope.corrected_search or search)
        names_by_text = {each: [names for names in _list_nodes(each) if has_words(names[-1])] for each in texts}
        matches.append({each: names for each, names in names_by_text.items() if names})
    counts = await _count_products(database, stores, [*matches], audience)
    return [
        _list_largest(names_by_text, count_by_text)[:limit] for names_by_text, count_by_text in zip(matches, counts, strict=True)
    ]


def _list_nodes(category: str) -> list[Names]:
    names = split_category(category)
    return [names[:depth] for depth in range(1, len(names) + 1)]


def _list_largest(names_by_text: Mapping[str, Sequence[Names]], count_by_text: Mapping[str, int]) -> list[Names]:
    counts = dict[Names, int]()
    for category, nodes in names_by_text.items():
        for names in nodes:
            counts[names] = counts.get(names, 0) + count_by_text.get(category, 0)
    return sorted((names for names, count in counts.items() if count), key=lambda names: (-counts[names], names))


async def _load_texts(database: Database, config_ids: Sequence[str], audience: Audience) -> list[list[str]]:
    """The different categories of the products of each store."""
    parameters = {**build_store_parameters(config_ids), "everything": audience is Audience.OWNER}
    rows = await database.fetch(_select_texts(have_single_store(config_ids)), parameters)
    return [[row.category for row in found] for found in group_by_parent(rows, config_ids, "config_id")]


async def _count_products(
    database: Database, config_ids: Sequence[str], texts: Sequence[Iterable[str]], audience: Audience
) -> list[dict[str, int]]:
    """The number of products in each of these categories of each store, without those below it."""
    if not any(texts):
        return [{} for _ in config_ids]
    is_single_store = have_single_store(config_ids)
    parameters = {**build_store_parameters(config_ids), "texts": [*{each for of_store in texts for each in of_store}]}
    rows = await database.fetch(_count_texts(audience, is_single_store), parameters)
    return [{row.category: row.count for row in found} for found in group_by_parent(rows, config_ids, "config_id")]


def _build_texts_sql(is_single_store: bool) -> str:
    """The different categories of products: in the index, each is found behind the one before."""
    store, stores = (":config_id", "(SELECT 1)") if is_single_store else ("store.id", "unnest(:config_ids)")
    next_text = f"SELECT category FROM products WHERE config_id = {store} AND (status = 'active' OR :everything)"
    return f"""
SELECT CAST({store} AS uuid) AS config_id, listed.category
FROM {stores} AS store (id), LATERAL (
  WITH RECURSIVE category_text (category) AS (
    ({next_text} AND category IS NOT NULL ORDER BY category LIMIT 1)
    UNION ALL
    SELECT ({next_text} AND category > category_text.category ORDER BY category LIMIT 1)
    FROM category_text WHERE category_text.category IS NOT NULL
  )
  SELECT category FROM category_text WHERE category IS NOT NULL LIMIT {_MAX_SEARCHED_TEXTS}
) AS listed
"""


@cache
def _select_texts(is_single_store: bool) -> Statement:
    sql = text(_build_texts_sql(is_single_store)).bindparams(bind_store_type(is_single_store))
    return compile_statement(sql, depends_on=depend_on_stores(is_single_store))


@cache
def _count_texts(audience: Audience, is_single_store: bool) -> Statement:
    conditions = [is_any_store(products.c.config_id, is_single_store), products.c.category == any_(bind_text_array("texts"))]
    if audience is Audience.SHOPPER:
        conditions += [is_product_sellable(), is_store_published(products.c.config_id)]
    columns = products.c.config_id, products.c.category
    query = select(*columns, func.count().label("count")).where(*conditions).group_by(*columns)
    return compile_statement(query, depends_on=depend_on_stores(is_single_store))
