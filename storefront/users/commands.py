"""Commands that write users: sign-in with verified claims, profile updates, and sign-out."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Double, Text, bindparam, func, select, text, update

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import Claims
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.errors import Unauthenticated
from storefront.core.ids import uuid7
from storefront.feed.log import LogEntry
from storefront.models import users as table
from storefront.models.rows import IdentityUserRow, UserRow
from storefront.queries import users
from storefront.writes import validation
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.sql import convert_to_columns, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork

_EMAIL_TAKEN_MESSAGE = (
    "The token's email belongs to a user with another sub of the same issuer. Sign in as you did before, or ask the operator to "
    "run storefront doctor."
)
_EMAIL_MISSING_MESSAGE = "The token's sub is not known yet, and without an email claim no user can be made for it."

# Account linking: a verified address identifies its user. If one issuer states the same address for two subs, these are two
# people, or one whose sub changed: neither may get access to the other's data.
_JOIN_IDENTITY_SQL = """
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


async def sign_in(database: Database, claims: Claims) -> IdentityUserRow:
    """The user of verified claims, with the ids of their stores as `owned`; created at the first sign-in.

    Issuer and `sub` identify the user, whatever the e-mail address. A new `sub` with a verified address is linked to the user
    who has this address, if there is one. Raises Unauthenticated if that user has another `sub` of the same issuer, for a new
    `sub` without an address, and for credentials issued before the user signed out everywhere.
    """
    user = await users.load_user_by_identity(database, claims) or await _join_identity(database, claims)
    if user.is_signed_out:
        raise Unauthenticated(users.SIGNED_OUT_MESSAGE)
    if user.states_email:
        await _update_identity_email(database, claims, user)
    return user


async def _join_identity(database: Database, claims: Claims) -> IdentityUserRow:
    if claims.email is None:
        raise Unauthenticated(_EMAIL_MISSING_MESSAGE)
    address = claims.verified_email
    identity_values = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued_at, "email": claims.email}
    async with database.transaction() as connection:
        # A new user may send two requests at once.
        _lock_addresses(connection, address, identity=f"{claims.issuer}|{claims.subject}")
        values = {"id": uuid7(), "address": address, "name": claims.name, "image": claims.picture}
        await connection.fetch(_insert_identity(), identity_values | values)
    user = await users.load_user_by_identity(database, claims)
    if user is None:
        raise Unauthenticated(_EMAIL_TAKEN_MESSAGE)
    return user


async def _update_identity_email(database: Database, claims: Claims, user: IdentityUserRow) -> None:
    """Store the e-mail address that the newest token of an identity states.

    A user has an address as long as one of their identities states it: the provider may assign it to another person afterwards.
    An address of another user stays with that user.
    """
    address = claims.verified_email
    identity_values = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued_at}
    async with database.transaction() as connection:
        _lock_addresses(connection, address, user.verified_email)
        rows = await connection.fetch(_lock_stated_identity(), identity_values)
        for stored in rows:
            # A token that states the same address without email_verified does not revoke the verification.
            is_same = stored.verified_email is not None and stored.verified_email == normalize_email(claims.email or "")
            new_address = stored.verified_email if address is None and is_same else address
            email_values = {
                "user_id": stored.user_id,
                "email": claims.email,
                "address": new_address,
                "before": stored.verified_email,
            }
            for statement in (
                _update_stated_identity(),
                _delete_unclaimed_address(),
                _insert_verified_address(),
                _update_user_email(),
            ):
                connection.enqueue(statement, identity_values | email_values)


def _lock_addresses(connection: Connection, *addresses: str | None, identity: str | None = None) -> None:
    """Take advisory locks on addresses and an identity until the transaction ends, against concurrent writes."""
    for address in sorted({address for address in addresses if address}):
        connection.enqueue(_acquire_advisory_lock(), {"key": f"email {address}"})
    if identity:
        connection.enqueue(_acquire_advisory_lock(), {"key": f"identity {identity}"})


PROFILE_RULES: validation.Rules = {
    "expectedVersion": validation.accept_any,
    "onConflict": validation.accept_any,
    "name": validation.optional_rule(validation.text_rule(255)),
    "image": validation.optional_rule(validation.validate_url),
}


async def update_profile(unit: UnitOfWork, values: Mapping[str, Any]) -> Sequence[PendingRow]:
    """Update the given fields of the actor's own profile."""
    clean = validation.require_valid_fields(PROFILE_RULES, values)
    [old] = await unit.fetch(_lock_own_user(), {"id": unit.actor_id})
    stores = [row.config_id for row in await unit.fetch(select_stores_showing_user(), {"id": old.id})]
    await reject_stale_version(unit, old, clean, *stores)
    pending = update_row(unit, table, old, convert_to_columns(get_set_values(clean)))
    if pending.changed_fields:
        entry = LogEntry(
            kind="user_updated", entity_id=old.id, version=pending.state.version, changed_fields=pending.changed_fields
        )
        unit.record_change_in_each(stores, entry)
    return [pending]


# Stores show the names of their owners and of the authors of reviews.
_STORES_SHOWING_USER_SQL = """
SELECT id AS config_id FROM configs WHERE user_id = :id
UNION SELECT config_id FROM reviews WHERE user_id = :id
"""


@cache
def select_stores_showing_user() -> Statement:
    """The stores that show the name of a user, as `config_id`."""
    return compile_statement(text(_STORES_SHOWING_USER_SQL).bindparams(bindparam("id", type_=table.c.id.type)))


async def sign_out_everywhere(unit: UnitOfWork, _: Mapping[str, Any]) -> Sequence[UserRow]:
    """Revoke all credentials of the actor that were issued before now, including the current ones."""
    return await unit.fetch(_update_signed_out_at(), {"of": unit.actor_id})


async def sign_out(database: Database, user_id: str) -> None:
    """Revoke all credentials of a user, on behalf of the operator."""
    await database.fetch(_update_signed_out_at(), {"of": user_id})


@cache
def _update_signed_out_at() -> Statement:
    # Not the start of the transaction: credentials issued since then are revoked, too.
    statement = update(table).values(signed_out_at=func.clock_timestamp()).returning(*table.c)
    return compile_statement(statement.where(table.c.id == bindparam("of")))


@cache
def _lock_own_user() -> Statement:
    # Serialized with new reviews and stores of the user: these show the old name and then get the change.
    return compile_statement(select(table).where(table.c.id == bindparam("id")).with_for_update())


_PARAMETER_TYPES = {
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


def _compile_typed(sql: str) -> Statement:
    clause = text(sql)
    return compile_statement(
        clause.bindparams(*(bindparam(name, type_=_PARAMETER_TYPES[name]) for name in clause.compile().params))
    )


@cache
def _acquire_advisory_lock() -> Statement:
    return _compile_typed("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")


@cache
def _insert_identity() -> Statement:
    return _compile_typed(_JOIN_IDENTITY_SQL)


@cache
def _lock_stated_identity() -> Statement:
    return _compile_typed("""
SELECT user_id, verified_email FROM user_identities
WHERE issuer = :issuer AND subject = :subject AND stated_at <= to_timestamp(:issued) FOR UPDATE
""")


@cache
def _update_stated_identity() -> Statement:
    return _compile_typed("""
UPDATE user_identities SET email = :email, verified_email = :address, stated_at = to_timestamp(:issued)
WHERE issuer = :issuer AND subject = :subject
""")


@cache
def _delete_unclaimed_address() -> Statement:
    return _compile_typed("""
DELETE FROM verified_emails WHERE address = :before AND user_id = :user_id
  AND NOT EXISTS (SELECT FROM user_identities WHERE user_id = :user_id AND verified_email = :before)
""")


@cache
def _insert_verified_address() -> Statement:
    return _compile_typed("""
INSERT INTO verified_emails (address, user_id) SELECT :address, :user_id WHERE :address IS NOT NULL ON CONFLICT DO NOTHING
""")


@cache
def _update_user_email() -> Statement:
    # Version and time of change are those of the public profile: the address is not part of it, nor is the time of a sign-in.
    return _compile_typed("UPDATE users SET email = :email WHERE id = :user_id AND email <> :email")
