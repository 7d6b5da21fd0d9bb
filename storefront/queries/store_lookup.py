"""The stores of ids that come alone: `node(id)`, an image's URL, the input of a mutation.

A row never moves to another store and never changes its type, so both are cached in the process, and statements that follow name
the store. Whether the row still exists, and the viewer may see it, is theirs to find out.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from cachetools import LRUCache
from sqlalchemy import ColumnElement, Select, Table, Uuid, case, cast, literal, literal_column, null, select, union_all

from storefront.core.cache_dependencies import RowDependency
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.ids import parse_id
from storefront.models import (
    configs,
    image_uploads,
    images,
    jobs,
    products,
    reviews,
    users,
    variants,
    webhook_deliveries,
    webhooks,
)
from storefront.models.row_keys import RowKey
from storefront.queries.visibility import any_of_ids

# Some 400 bytes each.
MAX_CACHED_LOCATIONS = 50_000
_ID_FIELDS = ("productId", "id")


class Location(NamedTuple):
    """What an id belongs to: the store of its row (that of a store itself is its own id; None for users), and its object type.

    The type is None for rows that are no nodes.
    """

    config_id: str | None
    type: str | None


# The tables whose ids may come alone, with the object types of their rows. A job's type depends on its kind.
_TYPES_BY_TABLE: Mapping[Table, ColumnElement[Any]] = {
    products: literal_column("'Product'"),
    variants: literal_column("'ProductVariant'"),
    configs: literal_column("'Config'"),
    users: literal_column("'User'"),
    reviews: literal_column("'Review'"),
    webhooks: literal_column("'Webhook'"),
    webhook_deliveries: literal_column("'WebhookDelivery'"),
    jobs: case((jobs.c.kind == literal("import"), literal_column("'ImportJob'")), else_=literal_column("'ExportJob'")),
    images: literal_column("NULL"),
    image_uploads: literal_column("NULL"),
}

_locations: LRUCache[str, Location] = LRUCache(MAX_CACHED_LOCATIONS)


async def locate_rows(reader: Database | Connection, ids: Iterable[str]) -> dict[str, Location]:
    """What each id belongs to, whether or not it is visible; without unknown ids. Ids are unique across tables.

    One statement for the ids that this process has not looked up before, none without such.
    """
    found = {id_: location for id_ in ids if (location := _locations.get(id_)) is not None}
    if missing := [id_ for id_ in dict.fromkeys(ids) if id_ not in found]:
        for row in await reader.fetch(_select_locations(), {"ids": missing}):
            found[row.id] = _locations[row.id] = Location(row.config_id, row.type)
    return found


def get_known_key(id_: str) -> RowKey | None:
    """The key of the row with this id, if it has been looked up before."""
    location = _locations.get(id_)
    return None if location is None or location.config_id is None else RowKey(location.config_id, id_)


async def find_row_key(reader: Database | Connection, id_: str) -> RowKey | None:
    """The key of the row with this id; None if there is none."""
    await locate_rows(reader, [id_])
    return get_known_key(id_)


async def find_row_keys(reader: Database | Connection, ids: Sequence[str]) -> list[RowKey]:
    """The keys of the rows with these ids, without unknown ids."""
    locations = await locate_rows(reader, ids)
    return [RowKey(location.config_id, id_) for id_, location in locations.items() if location.config_id is not None]


async def find_store_id(database: Database, values: Mapping[str, Any]) -> str | None:
    """The id of the store of a mutation's input; None if the input names no existing row."""
    config_id = values.get("configId")
    if config_id is not None:
        return str(config_id)
    row_id = _find_row_id(values)
    if row_id is None:
        return None
    key = await find_row_key(database, row_id)
    return key.config_id if key else None


def _find_row_id(values: Mapping[str, Any]) -> str | None:
    for name in _ID_FIELDS:
        if isinstance(row_id := values.get(name), str):
            return row_id
    for rows in values.values():
        # A bulk mutation writes to one store: its first row decides.
        if isinstance(rows, list) and rows and isinstance(rows[0], str) and parse_id(rows[0]):
            return rows[0]
        if isinstance(rows, Sequence) and rows and isinstance(rows[0], Mapping) and isinstance(rows[0].get("id"), str):
            return str(rows[0]["id"])
    return None


@cache
def _select_locations() -> Statement:
    rows = union_all(*(_select_of_table(table, type_) for table, type_ in _TYPES_BY_TABLE.items()))
    return compile_statement(rows, depends_on=RowDependency("config_id", "ids"))


def _select_of_table(table: Table, type_: ColumnElement[Any]) -> Select[Any]:
    # A store is its own, and users belong to none.
    of_itself: Mapping[Table, ColumnElement[Any]] = {configs: configs.c.id, users: cast(null(), Uuid)}
    config_id = of_itself.get(table, table.c.get("config_id", null()))
    columns = table.c.id, config_id.label("config_id"), type_.label("type")
    return select(*columns).where(table.c.id == any_of_ids("ids"))
