"""What an operator does about users: find one, have them sign in, put two together."""

from functools import cache
from uuid import UUID

from psycopg.errors import UniqueViolation
from sqlalchemy import bindparam, func, select, text, update

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import OWN_ISSUER, Claims
from storefront.core.db.database import Database, Statement, compiled
from storefront.core.ids import uuid7
from storefront.feed import log
from storefront.feed.log import Entry
from storefront.models import idempotency_keys, metadata, user_identities, users
from storefront.queries import users as queries
from storefront.users.commands import shown_in, sign_in


class UserNotFound(Exception):
    """No user is meant for sure. The message says what was found instead, and what to do."""


class MergeRefused(Exception):
    """Two users cannot become one. The message says why; nothing was changed."""


async def find_user(database: Database, *, email: str | None = None, user_id: str | None = None) -> str:
    """The id of the user to whom a verified address leads, or of the one with this id; raises UserNotFound."""
    if user_id is not None:
        return await _existing(database, user_id)
    address = _address(email or "")
    found = await queries.id_by_email(database, address)
    if found is None:
        others = await queries.ids_by_unverified_email(database, email or "")
        raise UserNotFound(_unverified(address, others) if others else f"There is no user with the address {address!r}.")
    return found


async def find_or_make_user(database: Database, email: str) -> tuple[str, bool]:
    """The id of the user to whom a verified address leads, and whether they were made just now.

    Raises UserNotFound where only users have the address for whom it is not verified: a second one would take it from them.
    """
    address = _address(email)
    found = await queries.id_by_email(database, address)
    if found is not None:
        return found, False
    if others := await queries.ids_by_unverified_email(database, email):
        raise UserNotFound(_unverified(address, others))
    name = address.partition("@")[0]
    made = await sign_in(database, Claims(str(uuid7()), email.strip(), name, email_verified=True))
    return str(made.id), True


async def sign_in_as(database: Database, user_id: str) -> tuple[Claims, float]:
    """What to sign a token for a user with, and the database's time. They get an identity of ours where they have none."""
    rows = await database.fetch(_own_subject(), {"user_id": user_id})
    subject = str(rows[0].subject) if rows else str(uuid7())
    if not rows:
        await database.fetch(_add_own(), {"user_id": user_id, "subject": subject})
    [(now,)] = await database.fetch(_database_time())
    return Claims(subject), float(now)


async def merge_users(database: Database, kept_id: str, merged_id: str) -> dict[str, int]:
    """Give all that one user has to another, and delete the one that then has nothing; returns the rows moved by table.

    Stores, reviews, jobs, identities and addresses move. `kept_id` keeps name, picture and address. Raises UserNotFound, and
    MergeRefused where both have what one user has once only, such as a review of the same product.
    """
    kept_id, merged_id = await _existing(database, kept_id), await _existing(database, merged_id)
    if kept_id == merged_id:
        raise MergeRefused("Name two different users.")
    pair = {"kept": kept_id, "merged": merged_id}
    moved = {}
    try:
        async with database.transaction() as connection:
            await connection.fetch(_lock_both(), pair)
            for name, statement in _moves().items():
                moved[name] = len(await connection.fetch(statement, pair))
            # Whoever signed out everywhere last has signed both out.
            await connection.fetch(_sign_out_both(), pair)
            await connection.fetch(_delete(), pair)
            stores = [row.config_id for row in await connection.fetch(shown_in(), {"id": kept_id})]
            log.send_to_each(connection, stores, Entry(kind="user_updated", entity_id=kept_id, changed_fields=["name", "image"]))
    except UniqueViolation as error:
        detail = error.diag.message_detail or error.diag.constraint_name
        raise MergeRefused(f"Both users have a row in {error.diag.table_name} of which one user has one only. {detail}") from None
    return {name: count for name, count in moved.items() if count}


async def _existing(database: Database, user_id: str) -> str:
    try:
        id_ = str(UUID(user_id))
    except ValueError:
        raise UserNotFound(f"{user_id[:60]!r} is no id of a user. Ids are UUIDs.") from None
    if (await queries.by_ids(database, [id_]))[0] is None:
        raise UserNotFound(f"There is no user with the id {id_}.")
    return id_


def _address(email: str) -> str:
    address = normalize_email(email)
    if address is None:
        raise UserNotFound(f"{email[:60]!r} is no e-mail address. Give one such as --email you@example.com.")
    return address


def _unverified(address: str, user_ids: list[str]) -> str:
    return (
        f"No user has proven that the address {address!r} is theirs. It was given by {', '.join(user_ids)}. "
        "If you know which one is meant, name them with --user."
    )


@cache
def _own_subject() -> Statement:
    ours = (user_identities.c.user_id == bindparam("user_id")) & (user_identities.c.issuer == OWN_ISSUER)
    first = user_identities.c.created_at, user_identities.c.subject
    return compiled(select(user_identities.c.subject).where(ours).order_by(*first).limit(1))


@cache
def _add_own() -> Statement:
    values = {name: bindparam(name, type_=user_identities.c[name].type) for name in ("user_id", "subject")}
    return compiled(user_identities.insert().values(issuer=OWN_ISSUER, **values))


@cache
def _database_time() -> Statement:
    return compiled(text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) AS now"))


@cache
def _lock_both() -> Statement:
    both = users.c.id.in_([bindparam("kept"), bindparam("merged")])
    return compiled(select(users.c.id).where(both).order_by(users.c.id).with_for_update())


@cache
def _moves() -> dict[str, Statement]:
    """A statement for each column that refers to a user, by its table."""
    moves = {}
    for table in metadata.sorted_tables:
        for column in (column for column in table.c if column.references(users.c.id)):
            kept, merged = bindparam("kept", type_=users.c.id.type), bindparam("merged", type_=users.c.id.type)
            move = update(table).where(column == merged).values({column: kept})
            if table is idempotency_keys:
                # Both may have used the same key within the last day. What the kept user did with it stays known.
                other = idempotency_keys.alias()
                taken = select(1).where(other.c.actor_id == kept, other.c.key == idempotency_keys.c.key).exists()
                move = move.where(~taken)
            moves[table.name] = compiled(move.returning(text("1 AS one")))
    return moves


@cache
def _sign_out_both() -> Statement:
    latest = select(func.max(users.c.signed_out_at)).where(users.c.id.in_([bindparam("kept"), bindparam("merged")]))
    alias = latest.scalar_subquery().correlate(None)
    return compiled(update(users).where(users.c.id == bindparam("kept")).values(signed_out_at=alias))


@cache
def _delete() -> Statement:
    return compiled(users.delete().where(users.c.id == bindparam("merged")))
