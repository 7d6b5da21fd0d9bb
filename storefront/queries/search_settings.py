"""What owners set about the searches of their stores: synonyms."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import select

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import search_synonyms
from storefront.models.row_keys import build_store_parameters, depend_on_stores, have_single_store, is_any_store
from storefront.queries.batching import group_by_parent


async def load_synonyms(database: Database, config_ids: Sequence[str]) -> list[list[list[str]]]:
    """The lists of synonyms of each store."""
    rows = await database.fetch(_select_synonyms(have_single_store(config_ids)), build_store_parameters(config_ids))
    stores = list[list[list[str]]]()
    for words in group_by_parent(rows, config_ids, "config_id"):
        lists: dict[int, list[str]] = {}
        for row in words:
            lists.setdefault(row.list_number, []).append(row.text)
        stores.append([*lists.values()])
    return stores


@cache
def _select_synonyms(is_single_store: bool) -> Statement:
    columns = (search_synonyms.c[name] for name in ("config_id", "list_number", "text"))
    query = select(*columns).where(is_any_store(search_synonyms.c.config_id, is_single_store))
    in_order = query.order_by(search_synonyms.c.list_number, search_synonyms.c.place)
    return compile_statement(in_order, depends_on=depend_on_stores(is_single_store))
