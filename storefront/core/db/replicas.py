"""Read replicas: a probe of each tells whether reads go there. Without an available replica they go to the primary.

Each replica has a pool of its own, which is closed while its probe fails. So what waits for a replica that has gone, and what
waits for its connections, fails at once and is read from the primary (docs/adr/replicas.md).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from itertools import count, repeat
from time import monotonic
from typing import Any, NoReturn

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import text

from storefront.core.db.database import DATABASE_ERRORS, Connection, Database, Row, Statement, compile_statement
from storefront.core.tasks import retrieve_exception, running_tasks

log = logging.getLogger("storefront")

# Seconds between two probes of a replica, and the timeout of each. Reads wait for both at most when a replica goes silent.
PROBE_INTERVAL_SECONDS, PROBE_TIMEOUT_SECONDS = 1.0, 2.0
# Positions of the primary that are remembered, one for each probe: the longest lag that can be measured is an hour.
MAX_POSITIONS = 3_600


class Replica:
    """A replica, and whether it answers; `lag_seconds` is how far it is behind the primary, as far as that is known.

    `open_listeners` are called when it answers again: it may be another server by then, or one that is further behind.
    """

    def __init__(self, name: str, database: Database) -> None:
        self.name, self.database = name, database
        self.lag_seconds = 0.0
        self.open_listeners: list[Callable[[], None]] = []
        self.is_probed = asyncio.Event()

    async def probe_repeatedly(self, measure_lag: Callable[[int | None], float]) -> NoReturn:
        """Probe the replica, open its pool when it answers, and close it when it does not."""
        while True:
            try:
                await self._probe_until_lost(measure_lag)
            except Exception as error:
                # Any error: otherwise the replica would not be probed again.
                if self.database.is_open or not self.is_probed.is_set():
                    problem = str(error) or type(error).__name__
                    log.warning("the replica %s does not answer, reads go elsewhere: %s", self.name, problem)
                self.database.terminate()
            self.is_probed.set()
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)

    async def _probe_until_lost(self, measure_lag: Callable[[int | None], float]) -> NoReturn:
        # A connection of its own: whether one of the pool is free says nothing about the replica.
        async with self.database.connect(PROBE_TIMEOUT_SECONDS) as connection:
            while True:
                [(position,)] = await _fetch_or_abort(connection)
                self.lag_seconds = measure_lag(position)
                if not self.database.is_open:
                    log.info("the replica %s answers", self.name)
                    for notify in self.open_listeners:
                        notify()
                    self.database.reopen()
                self.is_probed.set()
                await asyncio.sleep(PROBE_INTERVAL_SECONDS)


class Replicas:
    """The replicas of a primary, none of which has to answer.

    A replica that is more than `max_lag_seconds` behind is not used (0: no limit). `is_balanced`: operations take turns;
    otherwise they all read from the first one that is available.
    """

    def __init__(
        self, replicas: Sequence[Replica], primary: Database, *, max_lag_seconds: float = 0.0, is_balanced: bool = False
    ) -> None:
        self.all, self._primary = tuple(replicas), primary
        self._max_lag_seconds = max_lag_seconds
        self._turns = count() if is_balanced else repeat(0)
        # When the primary was seen to have reached a position of its write-ahead log: oldest first.
        self._primary_positions: deque[tuple[float, int]] = deque(maxlen=MAX_POSITIONS)
        self._compared_at = 0.0

    def choose(self) -> Replica | None:
        """The replica for the reads of one operation; None: the primary."""
        available = [replica for replica in self.all if self._get_problem(replica) is None]
        return available[next(self._turns) % len(available)] if available else None

    def describe_problems(self) -> str | None:
        """Which replicas are not used, and why; None if all are."""
        problems = [f"{replica.name} {problem}" for replica in self.all if (problem := self._get_problem(replica))]
        return ", ".join(problems) or None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probe the replicas while this lasts. Each has been probed once, or has not answered in time, when it begins."""
        if not self.all:
            yield
            return
        probes = (replica.probe_repeatedly(self._measure_lag) for replica in self.all)
        try:
            async with running_tasks(self._follow_primary(), *probes):
                await asyncio.gather(*(replica.is_probed.wait() for replica in self.all))
                yield
        finally:
            for replica in self.all:
                replica.database.terminate()

    def _get_problem(self, replica: Replica) -> str | None:
        if not replica.database.is_open:
            return "does not answer"
        is_late = 0 < self._max_lag_seconds < replica.lag_seconds
        return f"is {replica.lag_seconds:.0f} s behind" if is_late else None

    async def _follow_primary(self) -> NoReturn:
        while True:
            try:
                [(position,)] = await self._primary.fetch(_select_primary_position())
            except Exception as error:
                # Not available, or a service that does not report positions: the lag is not known from now on.
                position = None
                if not isinstance(error, DATABASE_ERRORS):
                    log.exception("the position of the primary could not be read; retrying")
            if position is not None:
                self._compared_at = monotonic()
                if not self._primary_positions or self._primary_positions[-1][1] != position:
                    self._primary_positions.append((self._compared_at, int(position)))
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)

    def _measure_lag(self, replayed_position: int | None) -> float:
        """Seconds since the primary was at the first position that the replica has not replayed.

        Measured until the last time that the primary answered: without it replicas cannot catch up, and are all there is.
        """
        if replayed_position is None:
            return 0.0
        missed = (reached_at for reached_at, position in self._primary_positions if position > replayed_position)
        first_missed_at = next(missed, None)
        return 0.0 if first_missed_at is None else self._compared_at - first_missed_at


def split_hosts(url: str) -> tuple[list[tuple[str, str]], bool]:
    """The hosts of a URL of Postgres, each with its name and a connection string; and whether load is balanced between them."""
    options = conninfo_to_dict(url)
    is_balanced = options.pop("load_balance_hosts", None) == "random"
    lists = {name: str(options.pop(name)).split(",") for name in ("host", "hostaddr", "port") if options.get(name)}
    host_count = max((len(values) for values in lists.values()), default=1)
    hosts = []
    for number in range(host_count):
        # As in libpq, one port is that of all hosts.
        place = {name: values[number if len(values) > 1 else 0] for name, values in lists.items()}
        label = ":".join(filter(None, (place.get("host") or place.get("hostaddr"), place.get("port"))))
        given: dict[str, Any] = {**options, **{name: value for name, value in place.items() if value}}
        hosts.append((label or "localhost", make_conninfo(**given)))
    return hosts, is_balanced


async def _fetch_or_abort(connection: Connection) -> list[Row]:
    """The position that a replica has replayed. A replica that does not answer in time is left at once, without cancelling."""
    probe = asyncio.ensure_future(connection.fetch(_select_replayed_position()))
    probe.add_done_callback(retrieve_exception)
    try:
        await asyncio.wait([probe], timeout=PROBE_TIMEOUT_SECONDS)
    finally:
        if not probe.done():
            connection.abort()
            await asyncio.wait([probe])
    return probe.result()


@cache
def _select_primary_position() -> Statement:
    position = "CASE WHEN NOT pg_is_in_recovery() THEN CAST(pg_current_wal_lsn() - '0/0' AS bigint) END AS position"
    return compile_statement(text(f"SELECT {position}"))


@cache
def _select_replayed_position() -> Statement:
    # None outside of recovery, as of a logical replica.
    return compile_statement(text("SELECT CAST(pg_last_wal_replay_lsn() - '0/0' AS bigint) AS position"))
