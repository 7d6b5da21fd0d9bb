"""The fields that clients and imports may write. A table declares each once, as its column: what it accepts, its default, and
the columns of files that carry it. Validation rules, statements, imports and exports derive from it.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import JSON, Column, Table, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from storefront.core.casing import to_camel_case
from storefront.core.net.network_policy import MAX_URL_CHARACTERS
from storefront.models.columns import EnumText, Money

MAX_INT32 = 2_147_483_647
# Of products and of variants: Shopify has them on each row.
INVENTORY_CSV_COLUMNS = ("Variant Inventory Qty", "Variant Inventory Tracker")


@dataclass(frozen=True, slots=True)
class Text:
    """Trimmed text without control characters."""

    max_characters: int
    min_characters: int = 1


@dataclass(frozen=True, slots=True)
class Html:
    """A fragment of HTML that is safe to insert into a page (`core/html.py`). Its text is a field of its own."""

    max_characters: int


@dataclass(frozen=True, slots=True)
class Slug:
    """A name in URLs, as `normalize_handle` returns it."""

    max_characters: int


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL."""

    max_characters: int = MAX_URL_CHARACTERS


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money, 0 or more, with the digits of its store's currency (`core/currencies.py`)."""


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer."""

    minimum: int = 0
    maximum: int = MAX_INT32


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values of a GraphQL enum, in lower case."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ItemList:
    """A JSON list without duplicates."""

    item: Text | Url
    max_items: int


@dataclass(frozen=True, slots=True)
class TextMap:
    """A JSON object of texts by name, in order."""

    name: Text | Url
    value: Text
    max_items: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A JSON object: `value`, text with three decimals, 0 to 9,999,999.999, and `unit`, one of these. It is one value, so that
    an update or an import cannot change the one without the other.
    """

    units: tuple[str, ...]


ValueType = Text | Html | Slug | Url | Amount | Integer | Boolean | Choice | ItemList | TextMap | Weight


@dataclass(frozen=True, slots=True)
class WritableField:
    """A field: the column `name` of its table. `default`: the value of a new row if it is left out."""

    name: str
    value_type: ValueType
    is_nullable: bool
    default: Any
    # The columns of Shopify's product CSV that the field is read from, as Shopify spells them. A field without one is carried by
    # the lossless cell alone.
    csv_columns: tuple[str, ...]

    @property
    def graphql_name(self) -> str:
        """The name in GraphQL."""
        return to_camel_case(self.name)

    @property
    def is_required(self) -> bool:
        """Whether a new row must be given a value."""
        return not self.is_nullable and self.default is None


def get_max_characters(value_type: ValueType) -> int:
    """The most characters of a value; 0 for types whose values are short."""
    match value_type:
        case Text() | Html() | Slug() | Url():
            return value_type.max_characters
        case ItemList():
            return value_type.max_items * value_type.item.max_characters
        case TextMap():
            return value_type.max_items * (value_type.name.max_characters + value_type.value.max_characters)
    return 0


def writable_column(value_type: ValueType, *, default: Any = None, csv_columns: tuple[str, ...] = (), index: bool = False) -> Any:
    """The column of a writable field. It is nullable if its annotation is; `default` is its server default."""
    column_options: dict[str, Any] = {"info": {"value_type": value_type, "default": default, "csv_columns": csv_columns}}
    if default is not None:
        column_options["server_default"] = text(_render_default(default))
    type_options = {} if (column_type := _get_column_type(value_type)) is None else {"sa_type": column_type}
    return Field(index=index, sa_column_kwargs=column_options, **type_options)


def list_writable_fields(table: Table) -> tuple[WritableField, ...]:
    """The writable fields of a table, in the order of its columns."""
    return tuple(_build_field(column) for column in table.c if "value_type" in column.info)


def _build_field(column: Column[Any]) -> WritableField:
    return WritableField(name=column.name, is_nullable=bool(column.nullable), **column.info)


def _get_column_type(value_type: ValueType) -> Any:
    """The type of the column; None if it follows from the annotation."""
    match value_type:
        case Amount():
            return Money
        case ItemList() | Weight():
            return JSONB
        case TextMap():
            # Unlike jsonb, it keeps the order of the names.
            return JSON
        case Choice():
            return EnumText
    return None


def _render_default(default: Any) -> str:
    if isinstance(default, str):
        return f"'{default}'"
    json = orjson.dumps(default).decode()
    json_type = "json" if isinstance(default, dict) else "jsonb"
    return f"'{json}'::{json_type}" if isinstance(default, list | dict) else json
