"""Writes about users."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Double, Text, bindparam, func, select, text, update

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import Claims
from storefront.core.db.database import Connection, Database, Row, Statement, compiled
from storefront.core.errors import Unauthenticated
from storefront.core.ids import uuid7
from storefront.feed.log import Entry
from storefront.models import users as table
from storefront.queries import users
from storefront.writes import validation
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.sql import change_row, columns
from storefront.writes.transaction import Unit, Written

_TAKEN = (
    "The token's email belongs to a user with another sub of the same issuer. Sign in as you did before, or have the operator "
    "look at it: storefront doctor."
)
_WITHOUT_EMAIL = "The token's sub is not known yet, and without an email claim no user can be made for it."

# A verified address leads to the user who has it. An issuer that gives it to two subs at a time means two people, though, or
# one whose sub changes: neither is to get what the other has.
_JOIN = """
WITH held AS (
  SELECT user_id FROM verified_emails WHERE address = :address
), joined AS (
  SELECT user_id FROM held
  WHERE NOT EXISTS (SELECT FROM user_identities AS other WHERE other.user_id = held.user_id AND other.issuer = :issuer)
), made AS (
  INSERT INTO users (id, email, name, image) SELECT :id, :email, :name, :image
  WHERE NOT EXISTS (SELECT FROM held)
    AND NOT EXISTS (SELECT FROM user_identities WHERE issuer = :issuer AND subject = :subject)
  RETURNING id
), proven AS (
  INSERT INTO verified_emails (address, user_id) SELECT :address, id FROM made WHERE :address IS NOT NULL
)
INSERT INTO user_identities (issuer, subject, user_id, email, verified_email, stated_at)
SELECT :issuer, :subject, user_id, :email, :address, to_timestamp(:issued)
FROM (SELECT user_id FROM joined UNION ALL SELECT id FROM made) AS found (user_id)
ON CONFLICT DO NOTHING
"""


async def sign_in(database: Database, claims: Claims) -> Row:
    """The user whom verified credentials name, with the ids of their stores as `owned`; made on first sight.

    An issuer and its `sub` are the user, whatever their address. A new `sub` whose address is verified is the user who has this
    address, if there is one. Raises Unauthenticated where that user is known to the same issuer by another `sub`, for a new `sub`
    without an address, and for credentials from before the user signed out everywhere.
    """
    known = await users.by_identity(database, claims) or await _join(database, claims)
    if known.is_signed_out:
        raise Unauthenticated(users.SIGNED_OUT)
    if known.states_email:
        await _change_email(database, claims, known)
    return known


async def _join(database: Database, claims: Claims) -> Row:
    if claims.email is None:
        raise Unauthenticated(_WITHOUT_EMAIL)
    address = claims.verified_email
    given = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued, "email": claims.email}
    async with database.transaction() as connection:
        # Two requests of a new user may come at once.
        _lock(connection, address, identity=f"{claims.issuer}|{claims.subject}")
        values = {"id": uuid7(), "address": address, "name": claims.name, "image": claims.picture}
        await connection.fetch(_join_statement(), given | values)
    joined = await users.by_identity(database, claims)
    if joined is None:
        raise Unauthenticated(_TAKEN)
    return joined


async def _change_email(database: Database, claims: Claims, known: Row) -> None:
    """Note what the newest token of an identity says of the address.

    The user has an address for as long as one of their identities has it: whoever is given it next at its provider is another
    person. An address that leads to another user stays theirs.
    """
    address = claims.verified_email
    named = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued}
    async with database.transaction() as connection:
        _lock(connection, address, known.verified_email)
        rows = await connection.fetch(_stated(), named)
        for before in rows:
            # A token that names the address without a word on whether it is verified takes nothing back.
            is_same = before.verified_email is not None and before.verified_email == normalize_email(claims.email or "")
            now = before.verified_email if address is None and is_same else address
            stated = {"user_id": before.user_id, "email": claims.email, "address": now, "before": before.verified_email}
            for statement in (_state(), _release(), _claim(), _show_email()):
                connection.send(statement, named | stated)


def _lock(connection: Connection, *addresses: str | None, identity: str | None = None) -> None:
    """Have others wait who write the same at the same time, until the transaction ends."""
    for address in sorted({address for address in addresses if address}):
        connection.send(_lock_statement(), {"key": f"email {address}"})
    if identity:
        connection.send(_lock_statement(), {"key": f"identity {identity}"})


PROFILE: validation.Rules = {
    "expectedVersion": validation.as_is,
    "name": validation.optional(validation.text(255)),
    "image": validation.optional(validation.url),
}


async def update_profile(unit: Unit, values: Mapping[str, Any]) -> Sequence[Written]:
    """Those fields of the actor's own profile that are given."""
    clean = validation.require(PROFILE, values)
    [old] = await unit.fetch(_own(), {"id": unit.actor_id})
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), None)
    made = change_row(unit, table, old, columns(clean))
    if made.fields:
        stores = [row.config_id for row in await unit.fetch(shown_in(), {"id": old.id})]
        entry = Entry(kind="user_updated", entity_id=old.id, version=made.state.version, changed_fields=made.fields)
        unit.record_in_each(stores, entry)
    return [made]


# Where a name is shown: as that of an owner, and of who wrote a review.
_SHOWN_IN = """
SELECT id AS config_id FROM configs WHERE user_id = :id
UNION SELECT config_id FROM products JOIN reviews ON reviews.product_id = products.id WHERE reviews.user_id = :id
"""


@cache
def shown_in() -> Statement:
    """The stores that show the name of a user, as `config_id`."""
    return compiled(text(_SHOWN_IN).bindparams(bindparam("id", type_=table.c.id.type)))


async def sign_out_everywhere(unit: Unit, _: Mapping[str, Any]) -> Sequence[Row]:
    """From now on no proof of the actor's counts that was issued before, the one in use included."""
    return await unit.fetch(_sign_out(), {"of": unit.actor_id})


async def sign_out(database: Database, user_id: str) -> None:
    """The same for a user of an operator's choice."""
    await database.fetch(_sign_out(), {"of": user_id})


@cache
def _sign_out() -> Statement:
    # By the clock, not the beginning of the transaction: what was issued meanwhile is older than this, too.
    signed_out = update(table).values(signed_out_at=func.clock_timestamp()).returning(*table.c)
    return compiled(signed_out.where(table.c.id == bindparam("of")))


@cache
def _own() -> Statement:
    # Whoever adds a review or a store of theirs waits, or is waited for: it shows the old name, and is told of the new one.
    return compiled(select(table).where(table.c.id == bindparam("id")).with_for_update())


_TYPES = {
    "address": Text(),
    "before": Text(),
    "email": Text(),
    "id": table.c.id.type,
    "image": Text(),
    "issued": Double(),
    "issuer": Text(),
    "key": Text(),
    "name": Text(),
    "subject": Text(),
    "user_id": table.c.id.type,
}


def _typed(sql: str) -> Statement:
    clause = text(sql)
    return compiled(clause.bindparams(*(bindparam(name, type_=_TYPES[name]) for name in clause.compile().params)))


@cache
def _lock_statement() -> Statement:
    return _typed("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")


@cache
def _join_statement() -> Statement:
    return _typed(_JOIN)


@cache
def _stated() -> Statement:
    return _typed("""
SELECT user_id, verified_email FROM user_identities
WHERE issuer = :issuer AND subject = :subject AND stated_at <= to_timestamp(:issued) FOR UPDATE
""")


@cache
def _state() -> Statement:
    return _typed("""
UPDATE user_identities SET email = :email, verified_email = :address, stated_at = to_timestamp(:issued)
WHERE issuer = :issuer AND subject = :subject
""")


@cache
def _release() -> Statement:
    return _typed("""
DELETE FROM verified_emails WHERE address = :before AND user_id = :user_id
  AND NOT EXISTS (SELECT FROM user_identities WHERE user_id = :user_id AND verified_email = :before)
""")


@cache
def _claim() -> Statement:
    return _typed("""
INSERT INTO verified_emails (address, user_id) SELECT :address, :user_id WHERE :address IS NOT NULL ON CONFLICT DO NOTHING
""")


@cache
def _show_email() -> Statement:
    return _typed("UPDATE users SET email = :email, updated_at = now() WHERE id = :user_id AND email <> :email")
