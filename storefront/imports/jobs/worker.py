"""Does the jobs of all stores: in any process, as many at a time as the settings say, each of them in one process alone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from storefront.core.db.database import FAILURES, Row, is_transient
from storefront.core.ids import new_id
from storefront.core.net.shopify_client import ShopifyError, ShopifyUnavailable
from storefront.core.storage.base import Missing, StorageFailed
from storefront.feed.keyed_events import Stirs
from storefront.imports.jobs import queue
from storefront.imports.jobs.handlers import Means, clear, run
from storefront.imports.jobs.queue import (
    LEASE,
    MAX_CRASHES,
    MAX_RUNNING_PER_OWNER,
    MOST_ATTEMPTS,
    WORK,
    Cancelled,
    Claim,
    JobFailed,
    Lost,
)

log = logging.getLogger("storefront")

# Seconds between looks for work that no wake-up told of.
LOOK = 2.0
# Seconds before a job is tried again that met with what may pass; they double.
SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 300.0


def is_passing(error: Exception) -> bool:
    """Whether the job may get further when it is tried again."""
    return isinstance(error, ShopifyUnavailable | StorageFailed) or is_transient(error)


@dataclass(frozen=True, slots=True)
class Hours:
    """When there is work: seconds of a lease, between looks, and before the first new try."""

    lease: float = LEASE
    look: float = LOOK
    pause: float = SHORTEST_PAUSE


class Workers:
    """As many as do jobs in this process at a time."""

    def __init__(
        self,
        means: Means,
        stirs: Stirs,
        count: int,
        *,
        max_running_per_owner: int = MAX_RUNNING_PER_OWNER,
        hours: Hours = Hours(),
        name: str | None = None,
    ) -> None:
        """`max_running_per_owner`: jobs of one owner that run at a time, in all processes; `name` is of their tasks."""
        self._means, self._stirs, self._count, self._hours, self._name = means, stirs, count, hours, name
        self._max_running_per_owner = max_running_per_owner

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while this lasts. Jobs that are not done then are left to others at once, from where they are."""
        tasks = [asyncio.create_task(self._work(), name=self._name) for _ in range(self._count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            try:
                busy = await self.take()
            except Exception:
                # Whatever it was, there are other jobs; this one is taken again when its lease is over.
                log.warning("a job could not be taken or left; the next try is in %s s", self._hours.look, exc_info=True)
                busy = False
            if not busy:
                await self._stirs.wait(WORK, self._hours.look)

    async def take(self) -> bool:
        """Do one job, if there is one."""
        worker = new_id()
        row = await queue.claim(self._means.database, worker, self._hours.lease, self._max_running_per_owner)
        if row is None:
            return False
        await _Doing(self._means, self._stirs, self._hours, row, Claim(row.id, worker, self._hours.lease)).do()
        return True


@dataclass(frozen=True, slots=True)
class _Doing:
    means: Means
    stirs: Stirs
    hours: Hours
    job: Row
    mine: Claim

    async def do(self) -> None:
        """The job, to its end or to where it has to be left."""
        database, mine = self.means.database, self.mine
        try:
            facts = await self._watched()
            if await queue.finish(database, mine, "succeeded", **facts):
                log.info("job %s (%s of store %s) succeeded", mine.job_id, self.job.kind, self.job.config_id)
                await clear(self.means, self.job)
        except Lost:
            log.info("job %s is somebody else's by now", mine.job_id)
        except Cancelled:
            await queue.finish(database, mine, "cancelled")
        except asyncio.CancelledError:
            # The process ends. Whoever comes next need not wait for the lease to end.
            await queue.put_off(database, mine, 0)
            self.means.wakeups.publish(WORK)
            raise
        except Exception as error:
            await self._missed(error)
        finally:
            self.means.tell(self.job)

    async def _watched(self) -> Mapping[str, Any]:
        """Do it, and see to it all the while that it is still ours and still wanted."""
        work = asyncio.create_task(self._run(), name=self._task_name())
        heart = asyncio.create_task(self._beat(), name=self._task_name())
        try:
            await asyncio.wait({work, heart}, return_when=asyncio.FIRST_COMPLETED)
            # Where both have come to an end the work itself is what counts.
            return await (work if work.done() else heart)
        finally:
            work.cancel()
            heart.cancel()
            await asyncio.gather(work, heart, return_exceptions=True)

    @staticmethod
    def _task_name() -> str | None:
        task = asyncio.current_task()
        return task.get_name() if task else None

    async def _run(self) -> Mapping[str, Any]:
        if self.job.is_cancelled:
            raise Cancelled
        if self.job.crashes >= MAX_CRASHES:
            raise JobFailed(
                f"It came to no end: {MAX_CRASHES} times the server's process ended while it ran at the same place. "
                "Split the source into parts, or tell the operator the id of the job."
            )
        if self.job.attempts > MOST_ATTEMPTS:
            raise JobFailed("it was begun several times and came to no end. Try it again, or tell the operator.")
        return await run(self.means, self.job, self.mine)

    async def _beat(self) -> Mapping[str, Any]:
        while True:
            await self._stirs_or_time()
            with suppress(*FAILURES):
                await queue.beat(self.means.database, self.mine)

    async def _stirs_or_time(self) -> None:
        await self.stirs.wait(queue.second_thoughts(self.mine.job_id), self.mine.lease / 3)

    async def _missed(self, error: Exception) -> None:
        """It met with something: with what may pass it is tried again, but not for ever."""
        attempts = self.job.attempts
        if is_passing(error) and attempts < MOST_ATTEMPTS:
            seconds = min(self.hours.pause * 2 ** (attempts - 1), LONGEST_PAUSE)
            log.warning("job %s is tried again in %.0f s (%s)", self.mine.job_id, seconds, type(error).__name__)
            await queue.put_off(self.means.database, self.mine, seconds, _told(error))
            return
        if not is_passing(error) and not isinstance(error, JobFailed | ShopifyError | Missing):
            log.error("job %s failed", self.mine.job_id, exc_info=error)
        else:
            log.info("job %s (%s of store %s) failed", self.mine.job_id, self.job.kind, self.job.config_id)
        await queue.finish(self.means.database, self.mine, "failed", _told(error))


def _told(error: Exception) -> Mapping[str, Any]:
    """What its owner is told."""
    if isinstance(error, JobFailed | ShopifyError):
        return {"message": str(error), "field": error.field}
    if isinstance(error, Missing):
        return {"message": "uploadId: the file is not there any more. Upload it anew.", "field": "uploadId"}
    if is_passing(error):
        return {"message": "The database or the object store had no time. Try again later.", "field": None}
    return {"message": "Something went wrong on our side. Try again, or tell the operator the id of the job.", "field": None}
