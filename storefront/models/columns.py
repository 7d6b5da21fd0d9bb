"""Column factories that tables share. Every default is a server default, so that COPY and plain SQL get it too.

Annotations are the types of the values in rows, which are ready for JSON: ids, amounts and timestamps are strings. The types of
the columns are those of the factories, or `sa_type`.
"""

from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, ForeignKeyConstraint, Numeric, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import AutoString, Field, SQLModel

from storefront.core.currencies import AMOUNT_LIMIT, MAX_FRACTION_DIGITS
from storefront.core.ids import uuid7

SQLModel.metadata.naming_convention = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class EnumText(AutoString):
    """A GraphQL enum as text, in lower case. Clients receive its name in upper case."""

    cache_ok = True


class Money(Numeric[Decimal]):
    """An amount in the currency of its store. Without a scale: Postgres prints as many decimals as were written."""

    cache_ok = True


def build_amount_check(name: str, *, minimum: str = "0") -> CheckConstraint:
    """A check constraint: what an amount may be in any currency. `minimum`: an SQL expression."""
    limits = f"{name} >= {minimum} AND {name} < {AMOUNT_LIMIT} AND scale({name}) <= {MAX_FRACTION_DIGITS}"
    return CheckConstraint(limits, name=name)


def enum_column(default: str, *, index: bool = False) -> Any:
    """A value of an enum, never null. A check constraint of the table lists the values."""
    return Field(nullable=False, index=index, sa_type=EnumText, sa_column_kwargs={"server_default": text(f"'{default}'")})


def uuid_key_column() -> Any:
    """A primary key, UUID version 7."""
    return Field(default_factory=uuid7, primary_key=True, sa_type=Uuid)


def store_column(*, is_reference: bool = True) -> Any:
    """The store of a row, the first column of its primary key: the first field of its class.

    Not `is_reference`: another foreign key ensures that the store exists, or the row outlives it.
    """
    return foreign_key_column("configs.id", primary_key=True) if is_reference else Field(sa_type=Uuid, primary_key=True)


def reference_in_store(column: str, table: str, *, ondelete: str = "CASCADE") -> ForeignKeyConstraint:
    """A foreign key of `config_id` and this column: rows refer to rows of their own store only."""
    return ForeignKeyConstraint(["config_id", column], [f"{table}.config_id", f"{table}.id"], ondelete=ondelete)


def foreign_key_column(target: str, *, index: bool = False, primary_key: bool = False) -> Any:
    """A foreign key with ON DELETE CASCADE."""
    return Field(sa_type=Uuid, foreign_key=target, ondelete="CASCADE", nullable=False, index=index, primary_key=primary_key)


def timestamp_column(*, index: bool = False, nullable: bool = False, primary_key: bool = False) -> Any:
    """A timestamptz that defaults to now(); with `nullable`, to null."""
    column_type = DateTime(timezone=True)
    if nullable:
        return Field(default=None, sa_type=column_type, nullable=True, index=index)
    default_now = {"server_default": text("now()")}
    return Field(sa_type=column_type, nullable=False, index=index, primary_key=primary_key, sa_column_kwargs=default_now)


def money_column(*, nullable: bool = False) -> Any:
    """An amount in the store's currency."""
    return Field(sa_type=Money, nullable=nullable)


def json_column(default: str | None = None) -> Any:
    """A jsonb value; not null if it has a default."""
    column_options = {} if default is None else {"server_default": text(f"'{default}'::jsonb")}
    return Field(sa_type=JSONB, nullable=default is None, sa_column_kwargs=column_options)


def build_strings_only_check(column: str, json_path: str) -> str:
    """A check constraint: all that a JSON path finds in a column are strings, as clients receive them unchecked.

    Strict mode: a lax path unwraps nested lists.
    """
    return f"""NOT jsonb_path_exists({column}, 'strict {json_path} ? (@.type() <> "string")')"""


def integer_column(default: int) -> Any:
    """An integer, not null."""
    return Field(nullable=False, sa_column_kwargs={"server_default": text(str(default))})


def boolean_column(default: bool) -> Any:
    """A boolean, not null."""
    return Field(nullable=False, sa_column_kwargs={"server_default": text(str(default).lower())})


__all__ = [
    "EnumText",
    "Field",
    "Money",
    "SQLModel",
    "Uuid",
    "boolean_column",
    "build_amount_check",
    "build_strings_only_check",
    "enum_column",
    "foreign_key_column",
    "integer_column",
    "json_column",
    "money_column",
    "reference_in_store",
    "store_column",
    "timestamp_column",
    "uuid_key_column",
]
