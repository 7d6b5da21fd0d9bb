"""Executes a mutation as a unit of work: one transaction that ends with its log entries, once per idempotency key."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from types import SimpleNamespace
from typing import Any

import orjson
from psycopg import Rollback, errors
from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.db.database import Connection, Database, Row, Statement, compile_statement
from storefront.core.db.pipeline import PREPARED_STATEMENT_ERRORS, QueuedStatement
from storefront.core.db.sweeps import Sweep, run_sweep, sweep_rows
from storefront.core.errors import LockTimeout, Unavailable
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.models import idempotency_keys
from storefront.queries.store_lookup import find_store_id
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    UserErrorCode,
    is_reported_constraint,
    make_already_exists_error,
    make_invalid_input_error,
)

# Attempts of a transaction that Postgres aborts because of another one.
MAX_TRANSACTION_ATTEMPTS = 4
IDEMPOTENCY_KEY_TTL_HOURS = 24


@dataclass(frozen=True, slots=True)
class MutationRequest:
    """A mutation request: the actor, the operation, its input and its idempotency key."""

    actor_id: str
    operation: str
    input_values: Mapping[str, Any]
    idempotency_key: str | None = None
    client_mutation_id: str | None = None
    dry_run: bool = False

    def compute_digest(self) -> bytes:
        """A digest of operation and input: a key that is used again with another digest is a conflict."""
        content = orjson.dumps([self.operation, self.input_values], option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.blake2b(content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class MutationResult:
    """The result of a mutation: rows as of log `position`, or errors. `moved_store_ids`: stores to publish wake-ups for."""

    # None for a row that is not written.
    rows: Sequence[Row] = ()
    field_errors: Sequence[FieldError] = ()
    position: int | None = None
    is_replayed: bool = False
    moved_store_ids: Sequence[str] = ()

    def to_json(self) -> str:
        """Serialize for the idempotency key. Rows hold only JSON values."""
        rows = [None if row is None else row._asdict() for row in self.rows]
        field_errors = [{**asdict(field_error), "code": field_error.code.value} for field_error in self.field_errors]
        return orjson.dumps({"rows": rows, "failures": field_errors, "position": self.position}).decode()


def _parse_stored_result(stored: Mapping[str, Any]) -> MutationResult:
    rows = [None if row is None else SimpleNamespace(**row) for row in stored["rows"]]
    field_errors = [
        FieldError(UserErrorCode(f["code"]), f["message"], tuple(f["path"]), f["details"]) for f in stored["failures"]
    ]
    return MutationResult(rows, field_errors, stored["position"], is_replayed=True)


class FailedShortcutError(Exception):
    """An optimistic unit finds that what it assumes may be wrong. The mutation is run again without shortcuts."""


class ConcurrentChangeError(errors.SerializationFailure):
    """Another transaction has changed what the command has read without a lock. The mutation is run again."""


class PendingRow:
    """A row whose write is enqueued: its `state` as far as known, and the returned `row` once the statements have run."""

    __slots__ = ("_statement", "changed_fields", "state")

    def __init__(self, state: Row, statement: QueuedStatement | None, changed_fields: Sequence[str] = ()) -> None:
        self.state, self._statement = state, statement
        # The fields whose values changed; empty: nothing was written.
        self.changed_fields = changed_fields

    @property
    def row(self) -> Row:
        """The row that the statement returned, or the unchanged row."""
        return self.state if self._statement is None else self._statement.rows[0]


class UnitOfWork:
    """The unit of work of one mutation. Commands read and write on `connection` and record each change that they make.

    `is_optimistic`: commands may skip the round trip of a check that rarely fails, if Postgres then rejects their write with a
    NotNullViolation, or they raise FailedShortcutError. The mutation is run again after that, without the shortcut.
    """

    def __init__(self, connection: Connection, request: MutationRequest, *, is_optimistic: bool = False) -> None:
        self.connection, self.is_optimistic = connection, is_optimistic
        self.actor_id = request.actor_id
        # Errors that do not end the command: of single rows of a bulk mutation.
        self.field_errors: list[FieldError] = []
        # The SKUs and barcodes of the variants of products, as they are when the products are written, if the command knows them:
        # they belong to the search documents of the products.
        self.variant_codes: dict[str, Sequence[str]] = {}
        self._client_mutation_id = request.client_mutation_id
        self._entries: dict[str, list[LogEntry]] = {}
        self._shared_entries: list[tuple[Sequence[str], LogEntry]] = []
        self._deleted_store_ids: list[str] = []
        self._append_statements: list[QueuedStatement] = []

    async def fetch(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> list[Row]:
        """Run a statement in the transaction."""
        return await self.connection.fetch(statement, parameters)

    def enqueue(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> QueuedStatement:
        """Send a statement in one batch with the next one that is awaited."""
        return self.connection.enqueue(statement, parameters)

    def record_change(self, config_id: str, entry: LogEntry) -> None:
        """Record a log entry of a store, written at the end of the command."""
        self._entries.setdefault(config_id, []).append(self._attribute_entry(entry))

    def record_change_in_each(self, config_ids: Sequence[str], entry: LogEntry) -> None:
        """Record the same log entry in the logs of many stores."""
        self._shared_entries.append((config_ids, self._attribute_entry(entry)))

    def record_deleted_store(self, config_id: str) -> None:
        """Record the deletion of a store and its log."""
        self._deleted_store_ids.append(config_id)

    def _attribute_entry(self, entry: LogEntry) -> LogEntry:
        return entry._replace(actor_id=self.actor_id, client_mutation_id=self._client_mutation_id)

    def list_moved_stores(self) -> Sequence[str]:
        """The stores whose logs the mutation advances or deletes."""
        return [
            *self._entries,
            *chain.from_iterable(config_ids for config_ids, _ in self._shared_entries),
            *self._deleted_store_ids,
        ]

    def enqueue_log_entries(self) -> None:
        """Enqueue the log entries. Last of all: from here to the commit, other writers of the store wait for the lock."""
        self._append_statements = [
            log.enqueue_append(self.connection, config_id, entries) for config_id, entries in sorted(self._entries.items())
        ]
        for config_ids, entry in self._shared_entries:
            log.enqueue_append_to_each(self.connection, config_ids, entry)

    def get_position(self) -> int | None:
        """The log position after the mutation; None without entries. Available once the entries are written."""
        return log.get_last_position(self._append_statements[-1]) if self._append_statements else None


# Returns rows, pending rows or None.
Command = Callable[[UnitOfWork, Mapping[str, Any]], Awaitable[Sequence[Any]]]


# Conflicts with other transactions.
_CONFLICT_ERRORS = (errors.DeadlockDetected, errors.SerializationFailure)
_CONFLICT_MESSAGE = "Others write to the same rows at the same time, again and again. Nothing was done: try again soon."
# Errors that another attempt may not meet: conflicts, and failed optimistic shortcuts.
_RETRYABLE_ERRORS = (
    *_CONFLICT_ERRORS,
    errors.NotNullViolation,
    FailedShortcutError,
    *PREPARED_STATEMENT_ERRORS,
)


async def execute_mutation(database: Database, request: MutationRequest, command: Command) -> MutationResult:
    """Run a command in a transaction, or return the stored result of its idempotency key.

    Writers of one store queue here (bulkhead) rather than in Postgres, where each would hold a connection meanwhile. Raises
    Unavailable where they are too many, or keep conflicting with each other.
    """

    async def find_writer_key() -> str:
        return await find_store_id(database, request.input_values) or request.actor_id

    bulkhead = database.write_bulkhead
    async with bulkhead.hold(find_writer_key) as slot:
        attempt = 1
        while True:
            try:
                return await _attempt_mutation(database, request, command, is_optimistic=attempt == 1, is_patient=slot.is_patient)
            except _RETRYABLE_ERRORS as error:
                if attempt == MAX_TRANSACTION_ATTEMPTS:
                    if isinstance(error, _CONFLICT_ERRORS):
                        raise Unavailable(_CONFLICT_MESSAGE) from error
                    raise
                attempt += 1
            except LockTimeout:
                if slot.is_patient:
                    raise
                await bulkhead.give_way(slot)


async def _attempt_mutation(
    database: Database, request: MutationRequest, command: Command, *, is_optimistic: bool, is_patient: bool
) -> MutationResult:
    try:
        return await _run_transaction(database, request, command, is_optimistic=is_optimistic, is_patient=is_patient)
    except MutationRejected as rejection:
        return MutationResult(field_errors=rejection.field_errors)
    except (errors.IntegrityError, errors.ProgramLimitExceeded) as error:
        return MutationResult(field_errors=[_convert_database_error(error)])


async def _run_transaction(
    database: Database, request: MutationRequest, command: Command, *, is_optimistic: bool, is_patient: bool
) -> MutationResult:
    result = MutationResult()
    async with database.transaction(is_patient=is_patient) as connection:
        unit = UnitOfWork(connection, request, is_optimistic=is_optimistic)
        if request.idempotency_key is None:
            result = await _run_command(unit, request, command, connection.flush if request.dry_run else connection.commit)
        else:
            stored_result = await _claim_key(unit, request)
            if stored_result is not None:
                return stored_result
            result = await _run_command_in_savepoint(unit, request, command)
            unit.enqueue(
                _update_key_result(), {"actor_id": request.actor_id, "key": request.idempotency_key, "result": result.to_json()}
            )
        if request.dry_run:
            result = replace(result, position=None)
            raise Rollback
    return result


async def _run_command(
    unit: UnitOfWork, request: MutationRequest, command: Command, finish: Callable[[], Awaitable[None]]
) -> MutationResult:
    command_rows = await command(unit, request.input_values)
    unit.enqueue_log_entries()
    await finish()
    rows = [row.row if isinstance(row, PendingRow) else row for row in command_rows]
    return MutationResult(rows, unit.field_errors, unit.get_position(), moved_store_ids=unit.list_moved_stores())


async def _run_command_in_savepoint(unit: UnitOfWork, request: MutationRequest, command: Command) -> MutationResult:
    # A rejection rolls back the work but not the key: it is stored as the result, and a retry receives it.
    try:
        async with unit.connection.savepoint():
            return await _run_command(unit, request, command, unit.connection.flush)
    except MutationRejected as rejection:
        return MutationResult(field_errors=rejection.field_errors)
    except (errors.IntegrityError, errors.ProgramLimitExceeded) as error:
        return MutationResult(field_errors=[_convert_database_error(error)])


# --------------------------------------------------------------------------------------------- idempotency


async def _claim_key(unit: UnitOfWork, request: MutationRequest) -> MutationResult | None:
    """Claim the idempotency key: None if it is new, else its stored result. Waits for a concurrent transaction with the key."""
    parameters = {"actor_id": request.actor_id, "key": request.idempotency_key, "digest": request.compute_digest()}
    while not await unit.fetch(_insert_key(), parameters):
        # No row if the key expired and was deleted between the two statements: claim it then.
        for digest, result in await unit.fetch(_select_key(), parameters):
            return (
                _parse_stored_result(result)
                if digest == parameters["digest"]
                else MutationResult(field_errors=[_KEY_CONFLICT_ERROR])
            )
    return None


_KEY_CONFLICT_ERROR = FieldError(
    UserErrorCode.IDEMPOTENCY_CONFLICT,
    "idempotencyKey: this key was used with another input. Use a new key for each new request.",
    ("idempotencyKey",),
)


@cache
def _insert_key() -> Statement:
    names = ("actor_id", "key", "digest")
    row = upsert(idempotency_keys).values({name: bindparam(name, type_=idempotency_keys.c[name].type) for name in names})
    return compile_statement(row.on_conflict_do_nothing().returning(idempotency_keys.c.key))


@cache
def _select_key() -> Statement:
    is_own_key = (idempotency_keys.c.actor_id == bindparam("actor_id")) & (idempotency_keys.c.key == bindparam("key"))
    return compile_statement(select(idempotency_keys.c.digest, idempotency_keys.c.result).where(is_own_key))


@cache
def _update_key_result() -> Statement:
    is_own_key = (idempotency_keys.c.actor_id == bindparam("actor_id")) & (idempotency_keys.c.key == bindparam("key"))
    return compile_statement(
        update(idempotency_keys).where(is_own_key).values(result=bindparam("result", type_=idempotency_keys.c.result.type))
    )


async def delete_expired_keys(database: Database) -> int:
    """Delete keys older than IDEMPOTENCY_KEY_TTL_HOURS; returns their number."""
    return await run_sweep(database, _sweep_expired_keys())


@cache
def _sweep_expired_keys() -> Sweep:
    is_expired = f"created_at < now() - interval '{IDEMPOTENCY_KEY_TTL_HOURS} hours'"
    return sweep_rows("idempotency_keys", is_expired, order_by="created_at")


# -------------------------------------------------------------------------------------------- database errors


def _convert_database_error(error: errors.IntegrityError | errors.ProgramLimitExceeded) -> FieldError:
    if isinstance(error, errors.ProgramLimitExceeded):
        # Letters that fold into several can exceed the size limit of a tsvector.
        return make_invalid_input_error(
            ["description"], "has, with the tags, more text than can be searched. Shorten it.", InvalidInputReason.TOO_LONG
        )
    constraint = error.diag.constraint_name or ""
    if not is_reported_constraint(constraint):
        # A constraint that the command should have checked: a bug, so raise it.
        raise error
    # "Key (config_id, handle)=(…, …) already exists.", in any language.
    key = re.search(r"\((?P<columns>[^)]*)\)=\((?P<values>.*)\)", error.diag.message_detail or "", re.DOTALL)
    values = key["values"].split(", ", key["columns"].count(",")) if key else []
    return make_already_exists_error(constraint, values)
