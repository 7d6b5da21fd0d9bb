"""One mutation: a transaction that ends in the log, done once per key, whole or not at all."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import chain
from types import SimpleNamespace
from typing import Any

import orjson
from psycopg import Rollback, errors
from sqlalchemy import bindparam, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.db.database import Connection, Database, Row, Statement, compiled
from storefront.core.db.pipeline import LOST_PREPARED, Sent
from storefront.feed import log
from storefront.feed.log import Entry
from storefront.models import idempotency_keys
from storefront.writes.store_lookup import find_store

# How often a transaction is begun anew after Postgres had to break it off for the sake of another one.
ATTEMPTS = 4
KEPT_HOURS = 24


class Code(Enum):
    """Why a mutation was refused."""

    INVALID_INPUT = "INVALID_INPUT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    STALE_VERSION = "STALE_VERSION"
    INSUFFICIENT_STOCK = "INSUFFICIENT_STOCK"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"


@dataclass(frozen=True, slots=True)
class Failure:
    """One reason why, with the path into the input. `details` are what the code's own error type tells besides."""

    code: Code
    message: str
    path: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """Ends a command without a trace of it in the database."""

    def __init__(self, *failures: Failure) -> None:
        super().__init__(*(failure.message for failure in failures))
        self.failures = failures


def invalid(path: Sequence[str], problem: str) -> Failure:
    """An input that cannot be used."""
    return Failure(Code.INVALID_INPUT, f"{'.'.join(path)}: {problem}", tuple(path))


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants done: by whom, which operation, with which input."""

    actor_id: str
    operation: str
    values: Mapping[str, Any]
    key: str | None = None
    client_mutation_id: str | None = None
    dry_run: bool = False

    def digest(self) -> bytes:
        """What tells this order from another one under the same key."""
        content = orjson.dumps([self.operation, self.values], option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.blake2b(content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order: its rows as they stand at `position`, or why there are none. `moved`: stores to wake."""

    rows: Sequence[Row | None] = ()
    failures: Sequence[Failure] = ()
    position: int | None = None
    replayed: bool = False
    moved: Sequence[str] = ()

    def as_json(self) -> str:
        """To be kept under a key. Rows hold nothing but what JSON has."""
        rows = [None if row is None else row._asdict() for row in self.rows]
        failures = [{**asdict(failure), "code": failure.code.value} for failure in self.failures]
        return orjson.dumps({"rows": rows, "failures": failures, "position": self.position}).decode()


def _kept_outcome(kept: Mapping[str, Any]) -> Outcome:
    rows = [None if row is None else SimpleNamespace(**row) for row in kept["rows"]]
    failures = [Failure(Code(f["code"]), f["message"], tuple(f["path"]), f["details"]) for f in kept["failures"]]
    return Outcome(rows, failures, kept["position"], replayed=True)


class Written:
    """A row on its way into its table: what is known of it by now, and the whole `row` once the log is written with it."""

    __slots__ = ("_sent", "fields", "state")

    def __init__(self, state: Row, sent: Sent | None, fields: Sequence[str] = ()) -> None:
        self.state, self._sent = state, sent
        # Those that really changed; none: nothing was written.
        self.fields = fields

    @property
    def row(self) -> Row:
        """The row as it stands."""
        return self.state if self._sent is None else self._sent.rows[0]


class Unit:
    """The transaction of one order. Commands read and write on `connection` and record each change that they make.

    `assumes`: commands may take for granted what hardly ever is not so and save the trip that would tell, where Postgres then
    refuses what they write with a NotNullViolation. The order is begun anew after that, and nothing is assumed.
    """

    def __init__(self, connection: Connection, order: Order, *, assumes: bool = False) -> None:
        self.connection, self.assumes = connection, assumes
        self.actor_id = order.actor_id
        # Failures that do not end the command: of single rows of a bulk.
        self.failures: list[Failure] = []
        self._client_mutation_id = order.client_mutation_id
        self._entries: dict[str, list[Entry]] = {}
        self._shared: list[tuple[Sequence[str], Entry]] = []
        self._gone: list[str] = []
        self._appended: list[Sent] = []

    async def fetch(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> list[Row]:
        """Run a statement in the transaction."""
        return await self.connection.fetch(statement, parameters)

    def send(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> Sent:
        """Have a statement run with the next one that is waited for."""
        return self.connection.send(statement, parameters)

    def record(self, config_id: str, entry: Entry) -> None:
        """A change for the store's log, written when the command is done."""
        self._entries.setdefault(config_id, []).append(self._signed(entry))

    def record_in_each(self, config_ids: Sequence[str], entry: Entry) -> None:
        """A change of what many stores show, for all their logs."""
        self._shared.append((config_ids, self._signed(entry)))

    def record_gone(self, config_id: str) -> None:
        """A store that is gone, with its log."""
        self._gone.append(config_id)

    def _signed(self, entry: Entry) -> Entry:
        return entry._replace(actor_id=self.actor_id, client_mutation_id=self._client_mutation_id)

    def stores(self) -> Sequence[str]:
        """The stores whose logs the order moves, or ends."""
        return [*self._entries, *chain.from_iterable(config_ids for config_ids, _ in self._shared), *self._gone]

    def append_log(self) -> None:
        """Last of all, because from here to the commit other writers of the store wait."""
        self._appended = [log.send(self.connection, config_id, entries) for config_id, entries in sorted(self._entries.items())]
        for config_ids, entry in self._shared:
            log.send_to_each(self.connection, config_ids, entry)

    def position(self) -> int | None:
        """The position reached, once the log is written."""
        return log.position_of(self._appended[-1]) if self._appended else None


# What is returned is a row, one on its way, or none.
Command = Callable[[Unit, Mapping[str, Any]], Awaitable[Sequence[Any]]]


# What may be otherwise the next time: others were in the way, or something was assumed that is not so.
_PASSING = (errors.DeadlockDetected, errors.SerializationFailure, errors.NotNullViolation, *LOST_PREPARED)


async def perform(database: Database, order: Order, command: Command) -> Outcome:
    """Do the order, or return the result that its key has had already. All of it is committed, or nothing.

    Writers of one store wait for each other here rather than in Postgres, where each would hold a connection meanwhile.
    """

    async def find_key() -> str:
        return await find_store(database, order.values) or order.actor_id

    async with database.writers.hold(find_key):
        for attempt in range(1, ATTEMPTS):
            with suppress(*_PASSING):
                return await _tried(database, order, command, assumes=attempt == 1)
        return await _tried(database, order, command, assumes=False)


async def _tried(database: Database, order: Order, command: Command, *, assumes: bool) -> Outcome:
    try:
        return await _once(database, order, command, assumes)
    except Refused as refusal:
        return Outcome(failures=refusal.failures)
    except (errors.IntegrityError, errors.ProgramLimitExceeded) as error:
        return Outcome(failures=[_refusal_of(error)])


async def _once(database: Database, order: Order, command: Command, assumes: bool) -> Outcome:
    outcome = Outcome()
    async with database.transaction() as connection:
        unit = Unit(connection, order, assumes=assumes)
        if order.key is None:
            outcome = await _worked(unit, order, command, connection.flush if order.dry_run else connection.commit)
        else:
            kept = await _claimed(unit, order)
            if kept is not None:
                return kept
            outcome = await _worked_under_key(unit, order, command)
            unit.send(_keep(), {"actor_id": order.actor_id, "key": order.key, "result": outcome.as_json()})
        if order.dry_run:
            outcome = replace(outcome, position=None)
            raise Rollback
    return outcome


async def _worked(unit: Unit, order: Order, command: Command, end: Callable[[], Awaitable[None]]) -> Outcome:
    made = await command(unit, order.values)
    unit.append_log()
    await end()
    rows = [one.row if isinstance(one, Written) else one for one in made]
    return Outcome(rows, unit.failures, unit.position(), moved=unit.stores())


async def _worked_under_key(unit: Unit, order: Order, command: Command) -> Outcome:
    # A refusal undoes the work but keeps the key: it is a result like any other, and a retry gets it again.
    try:
        async with unit.connection.savepoint():
            return await _worked(unit, order, command, unit.connection.flush)
    except Refused as refusal:
        return Outcome(failures=refusal.failures)
    except (errors.IntegrityError, errors.ProgramLimitExceeded) as error:
        return Outcome(failures=[_refusal_of(error)])


# --------------------------------------------------------------------------------------------- idempotency


async def _claimed(unit: Unit, order: Order) -> Outcome | None:
    """The kept outcome of the key, or None once the key is ours. Waits while another transaction is at it."""
    own = {"actor_id": order.actor_id, "key": order.key, "digest": order.digest()}
    while not await unit.fetch(_claim(), own):
        # Nothing where the sweep has taken the old key between the two statements: then it is free to be claimed.
        for digest, result in await unit.fetch(_kept(), own):
            return _kept_outcome(result) if digest == own["digest"] else Outcome(failures=[_CONFLICT])
    return None


_CONFLICT = Failure(
    Code.IDEMPOTENCY_CONFLICT,
    "idempotencyKey: this key was used with another input. Use a new key for each new request.",
    ("idempotencyKey",),
)


@cache
def _claim() -> Statement:
    names = ("actor_id", "key", "digest")
    row = upsert(idempotency_keys).values({name: bindparam(name, type_=idempotency_keys.c[name].type) for name in names})
    return compiled(row.on_conflict_do_nothing().returning(idempotency_keys.c.key))


@cache
def _kept() -> Statement:
    mine = (idempotency_keys.c.actor_id == bindparam("actor_id")) & (idempotency_keys.c.key == bindparam("key"))
    return compiled(select(idempotency_keys.c.digest, idempotency_keys.c.result).where(mine))


@cache
def _keep() -> Statement:
    mine = (idempotency_keys.c.actor_id == bindparam("actor_id")) & (idempotency_keys.c.key == bindparam("key"))
    return compiled(update(idempotency_keys).where(mine).values(result=bindparam("result", type_=idempotency_keys.c.result.type)))


async def sweep_keys(database: Database) -> int:
    """Forget the keys of more than a day ago; returns how many."""
    return len(await database.fetch(_sweep()))


@cache
def _sweep() -> Statement:
    old = f"DELETE FROM idempotency_keys WHERE created_at < now() - interval '{KEPT_HOURS} hours' RETURNING 1 AS one"
    return compiled(text(old))


# ------------------------------------------------------------------------------------- what Postgres refuses

# Rules that only the database can judge, because only it knows the other rows. By the constraint's name.
_TAKEN = {
    "configs_slug_key": ("slug", "another store has this slug already. Choose another one."),
    "products_config_id_handle_key": ("handle", "another product of this store has this handle already. Choose another one."),
    "reviews_product_id_user_id_key": ("productId", "you have reviewed this product already. Update that review instead."),
}


def taken(constraint: str, path: Sequence[str] = ()) -> Failure:
    """A name that another row has."""
    field_, message = _TAKEN[constraint]
    where = (*path, field_)
    return Failure(Code.ALREADY_EXISTS, f"{'.'.join(where)}: {message}", where)


def _refusal_of(error: errors.IntegrityError | errors.ProgramLimitExceeded) -> Failure:
    if isinstance(error, errors.ProgramLimitExceeded):
        # Letters that fold into several: nobody writes a megabyte of them but to see what happens.
        return invalid(["description"], "has, with the tags, more text than can be searched. Shorten it.")
    constraint = error.diag.constraint_name or ""
    if constraint not in _TAKEN:
        # A rule that a command should have checked itself: a fault of ours, to be seen as one.
        raise error
    return taken(constraint)
