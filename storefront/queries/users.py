"""Users by id, and whether what proved them still counts."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, bindparam, false, func, select, text
from sqlalchemy.sql.expression import Select

from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.scopes import WITHIN
from storefront.models import configs, users
from storefront.queries.grouped import by_key
from storefront.queries.visibility import ids

SIGNED_OUT = "You have signed out everywhere since this proof of who you are was made. Sign in again."


class Proof(NamedTuple):
    """That somebody was known to be a user: the user's id, and when the proof was issued, in seconds since 1970."""

    user_id: str
    issued: float


async def by_ids(database: Database, keys: Sequence[str]) -> list[Row | None]:
    """The users with these ids. Who may read which of their columns is the noun's affair."""
    return by_key(await database.fetch(_by_ids(), {"ids": list(keys)}), keys)


async def by_subject(database: Database, subject: str, issued: float) -> Row | None:
    """The user whom a proof of that time names: `id`, the ids of their stores as `owned`, and `is_signed_out` since."""
    rows = await database.fetch(_by_subject(), {"subject": subject, "issued": issued})
    return rows[0] if rows else None


async def by_proof(database: Database, proof: Proof) -> Row | None:
    """The same of a user who was known before, as things are now."""
    rows = await database.fetch(_by_id(), {"id": proof.user_id, "issued": proof.issued})
    return rows[0] if rows else None


async def revoked(database: Database, proofs: Collection[Proof]) -> list[Proof]:
    """Those proofs that no longer count: their users are gone, or have signed out everywhere since. One statement for all."""
    given = {"ids": [proof.user_id for proof in proofs], "issued": [proof.issued for proof in proofs]}
    return [Proof(row.user_id, row.issued) for row in await database.fetch(_revoked(), given)]


@cache
def _by_ids() -> Statement:
    return compiled(select(users).where(users.c.id == ids("ids")), reads=WITHIN)


@cache
def _by_subject() -> Statement:
    return compiled(_known().where(users.c.subject == bindparam("subject")))


@cache
def _by_id() -> Statement:
    return compiled(_known().where(users.c.id == bindparam("id")))


def _known() -> "Select[tuple[str, list[str], bool]]":
    owned = select(configs.c.id).where(configs.c.user_id == users.c.id).correlate(users).scalar_subquery()
    return select(users.c.id, func.array(owned).label("owned"), _is_signed_out().label("is_signed_out"))


def _is_signed_out() -> ColumnElement[bool]:
    return func.coalesce(users.c.signed_out_at >= func.to_timestamp(bindparam("issued")), false())


@cache
def _revoked() -> Statement:
    return compiled(
        text("""
SELECT proof.user_id, proof.issued
FROM unnest(CAST(:ids AS uuid[]), CAST(:issued AS float8[])) AS proof (user_id, issued)
LEFT JOIN users ON users.id = proof.user_id
WHERE users.id IS NULL OR users.signed_out_at >= to_timestamp(proof.issued)
""")
    )
