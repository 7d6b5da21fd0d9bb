"""What an operator does about users: find one, have them sign in, put two together."""

from functools import cache
from uuid import UUID

from psycopg.errors import UniqueViolation
from sqlalchemy import bindparam, func, select, text, update

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import OWN_ISSUER, Claims
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.ids import uuid7
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.models import idempotency_keys, metadata, user_identities, users
from storefront.queries import users as queries
from storefront.users.commands import select_stores_showing_user, sign_in


class UserNotFoundError(Exception):
    """No user is meant for sure. The message says what was found instead, and what to do."""


class MergeRejectedError(Exception):
    """Two users cannot become one. The message says why; nothing was changed."""


async def find_user(database: Database, *, email: str | None = None, user_id: str | None = None) -> str:
    """The id of the user to whom a verified address leads, or of the one with this id; raises UserNotFound."""
    if user_id is not None:
        return await _require_user_id(database, user_id)
    address = _normalize_address(email or "")
    found_id = await queries.find_user_id_by_email(database, address)
    if found_id is None:
        unverified_ids = await queries.find_user_ids_by_unverified_email(database, email or "")
        raise UserNotFoundError(
            _format_unverified(address, unverified_ids) if unverified_ids else f"There is no user with the address {address!r}."
        )
    return found_id


async def find_or_create_user(database: Database, email: str) -> tuple[str, bool]:
    """The id of the user to whom a verified address leads, and whether they were made just now.

    Raises UserNotFound where only users have the address for whom it is not verified: a second one would take it from them.
    """
    address = _normalize_address(email)
    found_id = await queries.find_user_id_by_email(database, address)
    if found_id is not None:
        return found_id, False
    if unverified_ids := await queries.find_user_ids_by_unverified_email(database, email):
        raise UserNotFoundError(_format_unverified(address, unverified_ids))
    name = address.partition("@")[0]
    created = await sign_in(database, Claims(str(uuid7()), email.strip(), name, email_verified=True))
    return str(created.id), True


async def ensure_own_claims(database: Database, user_id: str) -> tuple[Claims, float]:
    """What to sign a token for a user with, and the database's time. They get an identity of ours where they have none."""
    rows = await database.fetch(_select_own_subject(), {"user_id": user_id})
    subject = str(rows[0].subject) if rows else str(uuid7())
    if not rows:
        await database.fetch(_insert_own_identity(), {"user_id": user_id, "subject": subject})
    [(database_time,)] = await database.fetch(_select_database_time())
    return Claims(subject), float(database_time)


async def merge_users(database: Database, target_id: str, source_id: str) -> dict[str, int]:
    """Give all that one user has to another, and delete the one that then has nothing; returns the rows moved by table.

    Stores, reviews, jobs, identities and addresses move. `kept_id` keeps name, picture and address. Raises UserNotFound, and
    MergeRefused where both have what one user has once only, such as a review of the same product.
    """
    target_id, source_id = await _require_user_id(database, target_id), await _require_user_id(database, source_id)
    if target_id == source_id:
        raise MergeRejectedError("Name two different users.")
    parameters = {"kept": target_id, "merged": source_id}
    moved = {}
    try:
        async with database.transaction() as connection:
            await connection.fetch(_lock_both_users(), parameters)
            for name, statement in _build_move_statements().items():
                moved[name] = len(await connection.fetch(statement, parameters))
            # Whoever signed out everywhere last has signed both out.
            await connection.fetch(_sign_out_both(), parameters)
            await connection.fetch(_delete_merged_user(), parameters)
            stores = [row.config_id for row in await connection.fetch(select_stores_showing_user(), {"id": target_id})]
            log.enqueue_append_to_each(
                connection, stores, LogEntry(kind="user_updated", entity_id=target_id, changed_fields=["name", "image"])
            )
    except UniqueViolation as error:
        detail = error.diag.message_detail or error.diag.constraint_name
        raise MergeRejectedError(
            f"Both users have a row in {error.diag.table_name} of which one user has one only. {detail}"
        ) from None
    return {name: count for name, count in moved.items() if count}


async def _require_user_id(database: Database, user_id: str) -> str:
    try:
        id_ = str(UUID(user_id))
    except ValueError:
        raise UserNotFoundError(f"{user_id[:60]!r} is no id of a user. Ids are UUIDs.") from None
    if (await queries.load_users_by_ids(database, [id_]))[0] is None:
        raise UserNotFoundError(f"There is no user with the id {id_}.")
    return id_


def _normalize_address(email: str) -> str:
    address = normalize_email(email)
    if address is None:
        raise UserNotFoundError(f"{email[:60]!r} is no e-mail address. Give one such as --email you@example.com.")
    return address


def _format_unverified(address: str, user_ids: list[str]) -> str:
    return (
        f"No user has proven that the address {address!r} is theirs. It was given by {', '.join(user_ids)}. "
        "If you know which one is meant, name them with --user."
    )


@cache
def _select_own_subject() -> Statement:
    is_own_identity = (user_identities.c.user_id == bindparam("user_id")) & (user_identities.c.issuer == OWN_ISSUER)
    oldest_first = user_identities.c.created_at, user_identities.c.subject
    return compile_statement(select(user_identities.c.subject).where(is_own_identity).order_by(*oldest_first).limit(1))


@cache
def _insert_own_identity() -> Statement:
    values = {name: bindparam(name, type_=user_identities.c[name].type) for name in ("user_id", "subject")}
    return compile_statement(user_identities.insert().values(issuer=OWN_ISSUER, **values))


@cache
def _select_database_time() -> Statement:
    return compile_statement(text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) AS now"))


@cache
def _lock_both_users() -> Statement:
    both = users.c.id.in_([bindparam("kept"), bindparam("merged")])
    return compile_statement(select(users.c.id).where(both).order_by(users.c.id).with_for_update())


@cache
def _build_move_statements() -> dict[str, Statement]:
    """A statement for each column that refers to a user, by its table."""
    moves = {}
    for table in metadata.sorted_tables:
        for column in (column for column in table.c if column.references(users.c.id)):
            target, source = bindparam("kept", type_=users.c.id.type), bindparam("merged", type_=users.c.id.type)
            move = update(table).where(column == source).values({column: target})
            if table is idempotency_keys:
                # Both may have used the same key within the last day. What the kept user did with it stays known.
                other = idempotency_keys.alias()
                is_taken = select(1).where(other.c.actor_id == target, other.c.key == idempotency_keys.c.key).exists()
                move = move.where(~is_taken)
            moves[table.name] = compile_statement(move.returning(text("1 AS one")))
    return moves


@cache
def _sign_out_both() -> Statement:
    latest = select(func.max(users.c.signed_out_at)).where(users.c.id.in_([bindparam("kept"), bindparam("merged")]))
    alias = latest.scalar_subquery().correlate(None)
    return compile_statement(update(users).where(users.c.id == bindparam("kept")).values(signed_out_at=alias))


@cache
def _delete_merged_user() -> Statement:
    return compile_statement(users.delete().where(users.c.id == bindparam("merged")))
