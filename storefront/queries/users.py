"""Users by id, identity and address, and whether their credentials still count."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, Text, bindparam, exists, false, func, or_, select, text
from sqlalchemy.sql.expression import Select

from storefront.core.auth.tokens import Claims
from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, user_identities, users, verified_emails
from storefront.models.rows import IdentityUserRow, SignedInUserRow, UserRow
from storefront.queries.batching import align_by_key
from storefront.queries.visibility import any_of_ids

SIGNED_OUT_MESSAGE = (
    "You have signed out everywhere since these credentials were issued. Sign in again. Credentials of an issuer that are dated "
    "within STOREFRONT_CLOCK_SKEW seconds of signing out do not count: its clock may be ahead by so much."
)
# Rows of lists for operators.
MAX_LISTED_USERS = 20


class Credentials(NamedTuple):
    """Authenticated credentials: the user's id, and when they were issued, in seconds since 1970."""

    user_id: str
    issued_at: float


async def load_users_by_ids(database: Database, keys: Sequence[str]) -> list[UserRow | None]:
    """The users with these ids. Callers enforce which columns the viewer may read."""
    return align_by_key(await database.fetch(_select_by_ids(), {"ids": list(keys)}), keys)


async def load_user_by_identity(database: Database, claims: Claims) -> IdentityUserRow | None:
    """The user of a token's claims."""
    email_parameters = {"email": claims.email, "address": claims.verified_email}
    identity_parameters = {"issuer": claims.issuer, "subject": claims.subject, "issued": claims.issued_at}
    rows = await database.fetch(_select_by_identity(), identity_parameters | email_parameters)
    return rows[0] if rows else None


async def find_user_id_by_email(database: Database, address: str) -> str | None:
    """The id of the user with this normalized, verified address."""
    rows = await database.fetch(_select_by_email(), {"address": address})
    return str(rows[0].user_id) if rows else None


async def find_user_ids_by_unverified_email(database: Database, email: str) -> list[str]:
    """The ids of users who stated this address, verified or not. Reads all users: for operators."""
    return [
        str(row.id)
        for row in await database.fetch(_select_by_unverified_email(), {"email": email.strip(), "limit": MAX_LISTED_USERS})
    ]


async def load_address_conflicts(database: Database) -> list[Row]:
    """Users whose verified address belongs to another user, and users without identity or address; at most MAX_LISTED_USERS.

    Rows have `id`, `email` and the other user as `holder_id`, null for the second kind. Reads all users: for operators.
    """
    return await database.fetch(_select_address_conflicts(), {"limit": MAX_LISTED_USERS})


async def load_user_by_credentials(database: Database, credentials: Credentials) -> SignedInUserRow | None:
    """The current state of an authenticated user."""
    rows = await database.fetch(_select_by_id(), {"id": credentials.user_id, "issued": credentials.issued_at})
    return rows[0] if rows else None


async def find_revoked_credentials(database: Database, candidates: Collection[Credentials]) -> list[Credentials]:
    """The revoked credentials: their users are deleted, or have signed out everywhere since. One statement for all."""
    parameters = {
        "ids": [credentials.user_id for credentials in candidates],
        "issued": [credentials.issued_at for credentials in candidates],
    }
    return [Credentials(row.user_id, row.issued) for row in await database.fetch(_select_revoked(), parameters)]


@cache
def _select_by_ids() -> Statement:
    return compile_statement(select(users).where(users.c.id == any_of_ids("ids")), depends_on=INHERITED_DEPENDENCY)


@cache
def _select_by_identity() -> Statement:
    identity = user_identities.c
    email, address = bindparam("email", type_=Text), bindparam("address", type_=Text)
    is_address_free = ~exists().where(verified_emails.c.address == address)
    is_new_email = or_(identity.email != email, address.is_not(None) & or_(identity.verified_email.is_(None), is_address_free))
    is_latest = identity.stated_at <= func.to_timestamp(bindparam("issued"))
    states_email = func.coalesce(is_latest & is_new_email, false()).label("states_email")
    matches_identity = (identity.issuer == bindparam("issuer")) & (identity.subject == bindparam("subject"))
    user_state = _select_user_state().add_columns(states_email, identity.verified_email)
    return compile_statement(user_state.join(user_identities, identity.user_id == users.c.id).where(matches_identity))


@cache
def _select_by_email() -> Statement:
    return compile_statement(select(verified_emails.c.user_id).where(verified_emails.c.address == bindparam("address")))


@cache
def _select_by_unverified_email() -> Statement:
    # An approximate comparison: only verified addresses are normalized.
    is_same_address = func.lower(func.btrim(users.c.email)) == func.lower(bindparam("email"))
    return compile_statement(select(users.c.id).where(is_same_address).order_by(users.c.id).limit(bindparam("limit")))


@cache
def _select_address_conflicts() -> Statement:
    return compile_statement(
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
def _select_by_id() -> Statement:
    return compile_statement(_select_user_state().where(users.c.id == bindparam("id")))


def _select_user_state() -> "Select[tuple[str, list[str], bool]]":
    owned_store_ids = select(configs.c.id).where(configs.c.user_id == users.c.id).correlate(users).scalar_subquery()
    return select(users.c.id, func.array(owned_store_ids).label("owned"), _is_signed_out().label("is_signed_out"))


def _is_signed_out() -> ColumnElement[bool]:
    return func.coalesce(users.c.signed_out_at >= func.to_timestamp(bindparam("issued")), false())


@cache
def _select_revoked() -> Statement:
    return compile_statement(
        text("""
SELECT credentials.user_id, credentials.issued
FROM unnest(CAST(:ids AS uuid[]), CAST(:issued AS float8[])) AS credentials (user_id, issued)
LEFT JOIN users ON users.id = credentials.user_id
WHERE users.id IS NULL OR users.signed_out_at >= to_timestamp(credentials.issued)
""")
    )
