"""Writes about users."""

from functools import cache

from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.errors import Unauthenticated
from storefront.core.ids import uuid7
from storefront.core.tokens import Claims
from storefront.models import configs, users


async def sign_in(database: Database, claims: Claims) -> Row:
    """The user whom a verified token names, with the ids of their stores as `owned`; made on first sight.

    A token's `sub` is the user. Where it is new but its e-mail address is known, the user with that address is meant,
    unless they are known under another `sub` already: that raises Unauthenticated, as does a new `sub` without an address.
    """
    rows = await database.fetch(_known(), {"subject": claims.subject})
    if rows:
        return rows[0]
    if claims.email is None:
        raise Unauthenticated("The token's sub is not known yet, and without an email claim no user can be made for it.")
    await database.fetch(_made(), {"id": uuid7(), **claims.profile()})
    rows = await database.fetch(_known(), {"subject": claims.subject})
    if not rows:
        raise Unauthenticated("The token's email belongs to a user with another sub.")
    return rows[0]


async def subject_for(database: Database, email: str) -> str:
    """The `sub` of the user with this address, to sign a token with; user and `sub` are made where they are missing."""
    made = {"id": uuid7(), "subject": str(uuid7()), "email": email, "name": email.partition("@")[0], "image": None}
    await database.fetch(_made(), made)
    [(subject,)] = await database.fetch(_subject(), {"email": email})
    return str(subject)


@cache
def _subject() -> Statement:
    return compiled(select(users.c.subject).where(users.c.email == bindparam("email")))


@cache
def _known() -> Statement:
    owned = select(configs.c.id).where(configs.c.user_id == users.c.id).correlate(users).scalar_subquery()
    found = select(users.c.id, func.array(owned).label("owned"))
    return compiled(found.where(users.c.subject == bindparam("subject")))


@cache
def _made() -> Statement:
    names = ("id", "subject", "email", "name", "image")
    row = upsert(users).values({name: bindparam(name, type_=users.c[name].type) for name in names})
    adopted = row.on_conflict_do_update(
        index_elements=["email"],
        set_={"subject": row.excluded.subject, "updated_at": literal_column("now()")},
        where=users.c.subject.is_(None),
    )
    return compiled(adopted)
