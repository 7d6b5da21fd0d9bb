"""Administration of users by the operator: find, create, issue claims for, and merge them."""

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
    """No user matches unambiguously. The message says what was found instead, and what to do."""


class MergeRejectedError(Exception):
    """Two users cannot be merged. The message says why; nothing was changed."""


async def find_user(database: Database, *, email: str | None = None, user_id: str | None = None) -> str:
    """The id of the user with a verified e-mail address, or with this id. Raises UserNotFoundError."""
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
    """The id of the user with a verified e-mail address, and whether the user was created just now.

    Raises UserNotFoundError if users have the address unverified: a new user would take it from them.
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
    """Claims for a token of our own issuer, and the database's Unix time. Adds an identity of our issuer if there is none."""
    rows = await database.fetch(_select_own_subject(), {"user_id": user_id})
    subject = str(rows[0].subject) if rows else str(uuid7())
    if not rows:
        await database.fetch(_insert_own_identity(), {"user_id": user_id, "subject": subject})
    [(database_time,)] = await database.fetch(_select_database_time())
    return Claims(subject), float(database_time)


async def merge_users(database: Database, target_id: str, source_id: str) -> dict[str, int]:
    """Merge the source user into the target user and delete the source. Returns the number of moved rows by table.

    Stores, reviews, jobs, identities and addresses move. The target keeps its name, image and e-mail address. Raises
    UserNotFoundError, and MergeRejectedError if both have rows that are unique per user, such as reviews of one product.
    """
    target_id, source_id = await _require_user_id(database, target_id), await _require_user_id(database, source_id)
    if target_id == source_id:
        raise MergeRejectedError("Give two different users.")
    parameters = {"kept": target_id, "merged": source_id}
    moved = {}
    try:
        async with database.transaction() as connection:
            await connection.fetch(_lock_both_users(), parameters)
            for name, statement in _build_move_statements().items():
                moved[name] = len(await connection.fetch(statement, parameters))
            # The latest sign-out of either user applies to both.
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
        raise UserNotFoundError(f"{user_id[:60]!r} is not the id of a user. Ids are UUIDs.") from None
    if (await queries.load_users_by_ids(database, [id_]))[0] is None:
        raise UserNotFoundError(f"There is no user with the id {id_}.")
    return id_


def _normalize_address(email: str) -> str:
    address = normalize_email(email)
    if address is None:
        raise UserNotFoundError(f"{email[:60]!r} is not an e-mail address. Give one, such as --email you@example.com.")
    return address


def _format_unverified(address: str, user_ids: list[str]) -> str:
    return (
        f"The address {address!r} is not verified for any user. It was stated by {', '.join(user_ids)}. "
        "To choose one of them, give its id with --user."
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
                # Both may have used the same key within the last day: the target user's row stays.
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
