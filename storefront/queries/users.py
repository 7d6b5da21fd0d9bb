"""Users by id, identity and address, and whether their credentials still count."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, Text, bindparam, exists, false, func, or_, select, text
from sqlalchemy.sql.expression import Select

from storefront.core.auth.tokens import Claims
from storefront.core.cache_dependencies import WITHIN
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import configs, user_identities, users, verified_emails
from storefront.queries.batching import by_key
from storefront.queries.visibility import ids

SIGNED_OUT = (
    "You have signed out everywhere since these credentials were issued. Sign in again. Credentials of an issuer that are dated "
    "within STOREFRONT_CLOCK_SKEW seconds of signing out do not count: its clock may be ahead by so much."
)
# Rows of lists that are for an operator to read.
MAX_LISTED = 20


class Proof(NamedTuple):
    """That somebody was known to be a user: the user's id, and when the proof was issued, in seconds since 1970."""

    user_id: str
    issued: float


async def by_ids(database: Database, keys: Sequence[str]) -> list[Row | None]:
    """The users with these ids. Who may read which of their columns is the noun's affair."""
    return by_key(await database.fetch(_by_ids(), {"ids": list(keys)}), keys)


async def by_identity(database: Database, claims: Claims) -> Row | None:
    """The user whom the claims name: `id`, the ids of their stores as `owned`, whether they have signed out everywhere since.

    `states_email`: the claims say something new about the user's address. `verified_email` is what the identity said before.
    """
    given = {"email": claims.email, "address": claims.verified_email}
    named = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued}
    rows = await database.fetch(_by_identity(), named | given)
    return rows[0] if rows else None


async def id_by_email(database: Database, address: str) -> str | None:
    """The user to whom a normalized address leads."""
    rows = await database.fetch(_by_email(), {"address": address})
    return str(rows[0].user_id) if rows else None


async def ids_by_unverified_email(database: Database, email: str) -> list[str]:
    """Users who gave this address, which is not proven to be theirs. Reads all users: for an operator."""
    return [str(row.id) for row in await database.fetch(_by_unverified_email(), {"email": email.strip(), "limit": MAX_LISTED})]


async def address_conflicts(database: Database) -> list[Row]:
    """Users, at most MAX_LISTED, who have proven an address that leads to another user, and those whom no credentials name.

    `id`, their `email`, and the other user as `holder_id`, null for the second kind. Reads all users: for an operator.
    """
    return await database.fetch(_address_conflicts(), {"limit": MAX_LISTED})


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
def _by_identity() -> Statement:
    identity = user_identities.c
    email, address = bindparam("email", type_=Text), bindparam("address", type_=Text)
    is_free = ~exists().where(verified_emails.c.address == address)
    is_news = or_(identity.email != email, address.is_not(None) & or_(identity.verified_email.is_(None), is_free))
    is_latest = identity.stated_at <= func.to_timestamp(bindparam("issued"))
    states_email = func.coalesce(is_latest & is_news, false()).label("states_email")
    named = (identity.issuer == bindparam("issuer")) & (identity.subject == bindparam("subject"))
    known = _known().add_columns(states_email, identity.verified_email)
    return compiled(known.join(user_identities, identity.user_id == users.c.id).where(named))


@cache
def _by_email() -> Statement:
    return compiled(select(verified_emails.c.user_id).where(verified_emails.c.address == bindparam("address")))


@cache
def _by_unverified_email() -> Statement:
    # Near enough to find them: what is equal for sure is only known of addresses that are verified.
    alike = func.lower(func.btrim(users.c.email)) == func.lower(bindparam("email"))
    return compiled(select(users.c.id).where(alike).order_by(users.c.id).limit(bindparam("limit")))


@cache
def _address_conflicts() -> Statement:
    return compiled(
        text("""
SELECT DISTINCT identity.user_id AS id, users.email, held.user_id AS holder_id
FROM user_identities AS identity
JOIN verified_emails AS held ON held.address = identity.verified_email AND held.user_id <> identity.user_id
JOIN users ON users.id = identity.user_id
UNION ALL
SELECT id, email, NULL FROM users
WHERE NOT EXISTS (SELECT FROM user_identities WHERE user_id = users.id)
  AND NOT EXISTS (SELECT FROM verified_emails WHERE user_id = users.id)
ORDER BY id LIMIT :limit
""")
    )


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
