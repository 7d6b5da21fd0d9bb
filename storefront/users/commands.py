"""Writes about users."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Update, bindparam, func, select, text, update

from storefront.commands import rules
from storefront.commands.statements import change_row, columns
from storefront.commands.unit import Unit, Written
from storefront.commands.versions import refuse_stale
from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.errors import Unauthenticated
from storefront.core.ids import uuid7
from storefront.core.tokens import Claims
from storefront.feed.log import Entry
from storefront.models import users as table
from storefront.queries import users

_TAKEN = "The token's email belongs to a user with another sub."
_TAKEN_UNVERIFIED = (
    "The token's email belongs to a user already, and nothing proves that it is yours: its issuer does not call it verified. "
    "Verify the address there, or sign in as you did before."
)

# Two requests of somebody new may come at once: neither their address nor their sub makes a second user, or an error.
# An address leads to its user only when it is verified: else whoever types in the address of another would become them.
_MADE = """
WITH made AS (
  INSERT INTO users (id, subject, email, name, image) VALUES (:id, :subject, :email, :name, :image) ON CONFLICT DO NOTHING
)
UPDATE users SET subject = :subject, updated_at = now()
WHERE email = :email AND subject IS NULL AND :verified AND NOT EXISTS (SELECT FROM users WHERE subject = :subject)
"""


async def sign_in(database: Database, claims: Claims) -> Row:
    """The user whom a verified token names, with the ids of their stores as `owned`; made on first sight.

    A token's `sub` is the user. Where it is new but its e-mail address is known and verified, the user with that address is
    meant, unless they are known under another `sub` already: that raises Unauthenticated, as does a new `sub` without an
    address, or with one that is taken and not verified, or a token from before the user signed out everywhere.
    """
    known = await users.by_subject(database, claims.subject, claims.issued) or await _made_user(database, claims)
    if known.is_signed_out:
        raise Unauthenticated(users.SIGNED_OUT)
    return known


async def _made_user(database: Database, claims: Claims) -> Row:
    if claims.email is None:
        raise Unauthenticated("The token's sub is not known yet, and without an email claim no user can be made for it.")
    await database.fetch(_made(), {"id": uuid7(), **claims.profile(), "verified": claims.email_verified})
    made = await users.by_subject(database, claims.subject, claims.issued)
    if made is None:
        raise Unauthenticated(_TAKEN if claims.email_verified else _TAKEN_UNVERIFIED)
    return made


async def subject_for(database: Database, email: str) -> str:
    """The `sub` of the user with this address, to sign a token with; user and `sub` are made where they are missing."""
    made = {"id": uuid7(), "subject": str(uuid7()), "email": email, "name": email.partition("@")[0], "image": None}
    await database.fetch(_made(), {**made, "verified": True})
    [(subject,)] = await database.fetch(_subject(), {"email": email})
    return str(subject)


@cache
def _subject() -> Statement:
    return compiled(select(table.c.subject).where(table.c.email == bindparam("email")))


PROFILE: rules.Rules = {
    "expectedVersion": rules.as_is,
    "name": rules.optional(rules.text(255)),
    "image": rules.optional(rules.url),
}


async def update_profile(unit: Unit, values: Mapping[str, Any]) -> Sequence[Written]:
    """Those fields of the actor's own profile that are given."""
    clean = rules.require(PROFILE, values)
    [old] = await unit.fetch(_own(), {"id": unit.actor_id})
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), None)
    made = change_row(unit, table, old, columns(clean))
    if made.fields:
        shown_in = [row.config_id for row in await unit.fetch(_shown_in(), {"id": old.id})]
        entry = Entry(kind="user_updated", entity_id=old.id, version=made.state.version, changed_fields=made.fields)
        unit.record_in_each(shown_in, entry)
    return [made]


# Where a name is shown: as that of an owner, and of who wrote a review.
_SHOWN_IN = """
SELECT id AS config_id FROM configs WHERE user_id = :id
UNION SELECT config_id FROM products JOIN reviews ON reviews.product_id = products.id WHERE reviews.user_id = :id
"""


@cache
def _shown_in() -> Statement:
    return compiled(text(_SHOWN_IN).bindparams(bindparam("id", type_=table.c.id.type)))


async def sign_out_everywhere(unit: Unit, _: Mapping[str, Any]) -> Sequence[Row]:
    """From now on no proof of the actor's counts that was issued before, the one in use included."""
    return await unit.fetch(_sign_out(), {"of": unit.actor_id})


async def sign_out(database: Database, email: str) -> bool:
    """The same for the user with this address; whether there is one."""
    return bool(await database.fetch(_sign_out_by_email(), {"of": email}))


@cache
def _sign_out() -> Statement:
    return compiled(_signed_out().where(table.c.id == bindparam("of")))


@cache
def _sign_out_by_email() -> Statement:
    return compiled(_signed_out().where(table.c.email == bindparam("of")))


def _signed_out() -> Update:
    # By the clock, not the beginning of the transaction: what was issued meanwhile is older than this, too.
    return update(table).values(signed_out_at=func.clock_timestamp()).returning(*table.c)


@cache
def _own() -> Statement:
    # Whoever adds a review or a store of theirs waits, or is waited for: it shows the old name, and is told of the new one.
    return compiled(select(table).where(table.c.id == bindparam("id")).with_for_update())


@cache
def _made() -> Statement:
    return compiled(text(_MADE))
