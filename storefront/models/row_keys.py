"""Keys of rows of stores, and the conditions by which statements find them.

A statement about one store names it as the parameter `config_id` and restricts every table of the store by it, children included,
so that Postgres reads the store's part of each index, and a partitioned or distributed one a single partition. Statements about
several stores at once have lists instead. Which of the two it is (`is_single_store`) is part of a statement's shape.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import ColumnElement, FromClause, Table, and_, any_, bindparam, column, func
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.cache_dependencies import ParameterDependency

# In SQL as text; `build_single_store_sql` replaces it.
IN_STORES_SQL = "config_id = ANY(:config_ids)"


class StoreRow(Protocol):
    """A row or a key that has the id of its store."""

    @property
    def config_id(self) -> str:
        """The id of the store."""


R = TypeVar("R", bound=StoreRow)


class RowKey(NamedTuple):
    """The primary key of a row of a store. Ids are unique by themselves; the store leads statements to the rows of one store."""

    config_id: str
    id: str


def make_key_getter(id_column: str) -> Callable[[Any], RowKey | None]:
    """A function that returns the key of the row of its store that a row refers to; None if it refers to none."""

    def get_key(row: Any) -> RowKey | None:
        id_ = getattr(row, id_column)
        return None if id_ is None else RowKey(row.config_id, id_)

    return get_key


def list_keys(rows: Iterable[Any]) -> list[RowKey]:
    """The keys of rows."""
    return [RowKey(row.config_id, row.id) for row in rows]


def group_by_store(rows: Iterable[R]) -> list[tuple[str, list[R]]]:
    """Rows or keys by the ids of their stores, which are in order: of two writers to several stores, one waits for the other."""
    groups: dict[str, list[R]] = {}
    for row in rows:
        groups.setdefault(row.config_id, []).append(row)
    return sorted(groups.items())


# ------------------------------------------------------------------------------------------------ parameters


def have_single_store(config_ids: Sequence[str]) -> bool:
    """Whether these are one store."""
    return len(config_ids) == 1 or len(set(config_ids)) == 1


def build_store_parameters(config_ids: Sequence[str]) -> dict[str, Any]:
    """The parameter `config_id` of one store, or `config_ids` of several."""
    return {"config_id": config_ids[0]} if have_single_store(config_ids) else {"config_ids": list(config_ids)}


def build_key_parameters(keys: Sequence[RowKey]) -> dict[str, Any]:
    """The parameters of `bind_keys`: those of the stores, and `ids`."""
    return {**build_store_parameters([key.config_id for key in keys]), "ids": [key.id for key in keys]}


def are_of_single_store(keys: Sequence[RowKey]) -> bool:
    """Whether the rows are of one store."""
    return have_single_store([key.config_id for key in keys])


# ------------------------------------------------------------------------------------------------ conditions


def bind_store() -> ColumnElement[Any]:
    """The store of a statement about one."""
    return bindparam("config_id", type_=UUID(as_uuid=False))


def get_store(row: FromClause, is_single_store: bool) -> ColumnElement[Any]:
    """The store of a row, to which its children are restricted: in a statement about one store the parameter itself."""
    return bind_store() if is_single_store else row.c.config_id


def is_any_store(config_id: ColumnElement[Any], is_single_store: bool) -> ColumnElement[bool]:
    """Whether a column is a store of the statement."""
    if is_single_store:
        return config_id == bind_store()
    return config_id == any_(bindparam("config_ids", type_=ARRAY(UUID)))


def has_key(table: Table | FromClause, name: str = "id") -> ColumnElement[bool]:
    """Whether a row is the one with the parameters `config_id` and `name`, its id."""
    return and_(table.c.config_id == bind_store(), table.c.id == bindparam(name, type_=UUID(as_uuid=False)))


def has_any_id(table: FromClause, id_column: str = "id") -> ColumnElement[bool]:
    """Whether a row of the store `config_id` has one of the parameter `ids`, for writes.

    In statements that are planned for each execution: for a list of unknown length the planner may read all rows of the store.
    """
    return and_(table.c.config_id == bind_store(), table.c[id_column] == any_(bindparam("ids", type_=ARRAY(UUID))))


def bind_keys(is_single_store: bool) -> FromClause:
    """The keys of `build_key_parameters` as rows with `id`, and if they are of several stores, `config_id`.

    Reads are run once for each (`select_per_parent`), so that they never read more than the rows of the keys.
    """
    names = ("id",) if is_single_store else ("config_id", "id")
    arrays = [bindparam(f"{name}s", type_=ARRAY(UUID)) for name in names]
    return func.unnest(*arrays).table_valued(*(column(name, UUID) for name in names)).render_derived(name="key")


def is_row_of_key(table: FromClause, key: FromClause, is_single_store: bool) -> ColumnElement[bool]:
    """Whether a row is that of a row of `bind_keys`."""
    return and_(table.c.config_id == get_store(key, is_single_store), table.c.id == key.c.id)


def depend_on_stores(is_single_store: bool) -> ParameterDependency:
    """The cache dependency of a statement: its stores."""
    return ParameterDependency("config_id" if is_single_store else "config_ids")


def build_store_sql(sql: str, is_single_store: bool) -> str:
    """SQL whose tables are restricted by IN_STORES_SQL, for one store or several."""
    return sql.replace(IN_STORES_SQL, "config_id = :config_id") if is_single_store else sql


def bind_store_type(is_single_store: bool) -> Any:
    """The typed parameter of `build_store_sql`."""
    return bindparam("config_id", type_=UUID) if is_single_store else bindparam("config_ids", type_=ARRAY(UUID))
