"""The column kinds that tables share. Every default stands in the database, so that COPY and plain SQL get it too."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Numeric, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from storefront.core.ids import uuid7

SQLModel.metadata.naming_convention = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


def uuid_key_column() -> Any:
    """A primary key, UUID version 7."""
    return Field(default_factory=uuid7, primary_key=True, sa_type=Uuid)


def foreign_key_column(target: str, *, index: bool = False, primary_key: bool = False) -> Any:
    """A key of another table whose row takes this one with it when it goes."""
    return Field(foreign_key=target, ondelete="CASCADE", nullable=False, index=index, primary_key=primary_key)


def timestamp_column(*, index: bool = False, nullable: bool = False, primary_key: bool = False) -> Any:
    """A point in time, now unless given; nullable: none unless given."""
    column_type = DateTime(timezone=True)
    if nullable:
        return Field(default=None, sa_type=column_type, nullable=True, index=index)
    default_now = {"server_default": text("now()")}
    return Field(sa_type=column_type, nullable=False, index=index, primary_key=primary_key, sa_column_kwargs=default_now)


def money_column(*, nullable: bool = False) -> Any:
    """An amount in the store's currency with two decimals."""
    return Field(sa_type=Numeric(10, 2), nullable=nullable)


def json_column(default: str | None = None) -> Any:
    """A JSON value; with a default it cannot be null."""
    column_options = {} if default is None else {"server_default": text(f"'{default}'::jsonb")}
    return Field(sa_type=JSONB, nullable=default is None, sa_column_kwargs=column_options)


def build_strings_only_check(column: str, json_path: str) -> str:
    """The condition that what a path finds in a JSON column is text, none of it null: it goes to clients as it is.

    Strict: a lax path looks into lists that it finds.
    """
    return f"""NOT jsonb_path_exists({column}, 'strict {json_path} ? (@.type() <> "string")')"""


def integer_column(default: int) -> Any:
    """A whole number that is never null."""
    return Field(nullable=False, sa_column_kwargs={"server_default": text(str(default))})


def boolean_column(default: bool) -> Any:
    """A yes or no that is never null."""
    return Field(nullable=False, sa_column_kwargs={"server_default": text(str(default).lower())})


__all__ = [
    "UUID",
    "Decimal",
    "Field",
    "SQLModel",
    "boolean_column",
    "build_strings_only_check",
    "datetime",
    "foreign_key_column",
    "integer_column",
    "json_column",
    "money_column",
    "timestamp_column",
    "uuid_key_column",
]
