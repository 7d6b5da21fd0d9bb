"""Leases: a row of Postgres belongs to one worker for a while, and to another one when its heartbeats stop.

A lease is two columns of its row: the worker that holds it, and the time until which it does, by the clock of the database. The
worker extends it by heartbeats. An expired lease only says when other workers may claim the row: each write checks in its own
transaction that the row still names its worker (a fencing check), so that of two workers which both believe to hold the lease
one writes. A wrong clock, or a process that was believed dead, costs time and nothing else.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from sqlalchemy import Double
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.db.database import Database, Row, Statement
from storefront.core.tasks import running_tasks

T = TypeVar("T")


class LeaseLost(Exception):
    """Another worker holds the lease by now, or its row is gone."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The claim of a worker to a row. Each heartbeat extends it to `seconds` from then on.

    `row_key`: the primary key of the row by column, of which one is `id`.
    """

    row_key: Mapping[str, str]
    worker_id: str
    seconds: float

    @property
    def row_id(self) -> str:
        """The id of the row."""
        return self.row_key["id"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the statements that check or extend the lease."""
        return {**self.row_key, "worker": self.worker_id, "lease": self.seconds}


# The types of the parameters beside the key, for tables whose worker is of the type uuid.
LEASE_PARAMETER_TYPES = {"worker": UUID(as_uuid=False), "lease": Double()}


@dataclass(frozen=True, slots=True)
class LeaseColumns:
    """The columns of a table that hold its leases, and its primary key, as fragments of SQL. Parameters are those of `Lease`."""

    worker: str
    until: str
    key: tuple[str, ...] = ("id",)

    @property
    def extend_sql(self) -> str:
        """Assignment: the lease lasts its seconds from now on."""
        return f"{self.until} = now() + make_interval(secs => :lease)"

    @property
    def claim_sql(self) -> str:
        """Assignments: the worker holds the lease from now on."""
        return f"{self.worker} = :worker, {self.extend_sql}"

    @property
    def is_held_sql(self) -> str:
        """Condition: the row is the one of the lease, and still names its worker."""
        return f"{' AND '.join(f'{name} = :{name}' for name in self.key)} AND {self.worker} = :worker"

    def release_sql(self, until: str = "NULL") -> str:
        """Assignments: no worker holds the lease. `until` is what its time is set to."""
        return f"{self.worker} = NULL, {self.until} = {until}"


async def fetch_held(database: Database, statement: Statement, lease: Lease) -> list[Row]:
    """The rows of a statement that returns some only while the lease is held. Raises LeaseLost."""
    rows = await database.fetch(statement, lease.parameters)
    if not rows:
        raise LeaseLost
    return rows


async def run_with_heartbeats(
    work: Coroutine[Any, Any, T], heartbeats: Coroutine[Any, Any, NoReturn], *, task_name: str | None = None
) -> T:
    """Run the work, and heartbeats meanwhile. Returns and raises what the work does; ends it when the heartbeats raise.

    `heartbeats` extends the lease again and again, and raises once it cannot: LeaseLost.
    """
    async with running_tasks(work, heartbeats, name=task_name) as (work_task, heartbeat_task):
        await asyncio.wait({work_task, heartbeat_task}, return_when=asyncio.FIRST_COMPLETED)
        # Where both have ended the result of the work counts.
        return cast(T, await (work_task if work_task.done() else heartbeat_task))
