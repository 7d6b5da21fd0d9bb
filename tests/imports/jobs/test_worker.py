"""Who does a job: one at a time, whoever dies; and from where the last one was."""

import asyncio
import gc
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from time import thread_time
from typing import Any

import orjson
import pytest

from storefront.configs.commands import delete_config
from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.feed.keyed_events import KeyedEvents
from storefront.imports import diff, job_commands, product_writer
from storefront.imports.jobs import queue
from storefront.imports.jobs.handlers import JobDependencies, run_job, sweep_files
from storefront.imports.jobs.queue import JobFailed, Lease, LeaseLost
from storefront.imports.jobs.worker import WorkerPool, WorkerTimings
from storefront.queries.jobs import load_job
from storefront.writes.transaction import MutationRequest, execute_mutation
from tests.factories import insert, make_store, make_user
from tests.imports.catalogues import catalogue
from tests.imports.test_round_trip import contents
from tests.imports.workers import means
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, product, selling

ROOT = Path(__file__).parents[3]


@dataclass
class Yard:
    """A database, a folder of objects, and who works on them."""

    url: str
    database: Database
    folder: Path
    shopify: str | None = None

    @property
    def means(self) -> JobDependencies:
        return means(self.database, self.folder, self.shopify)

    def workers(self, lease: float = 5.0, count: int = 1) -> WorkerPool:
        return WorkerPool(
            self.means,
            KeyedEvents(),
            count,
            timings=WorkerTimings(lease_seconds=lease, poll_interval_seconds=0.05, min_retry_seconds=0.05),
        )

    async def file(self, content: str, store: str | None = None, **values: Any) -> str:
        """An import of a file that waits; returns its id."""
        store = store or await make_store(self.database)
        [(user,)] = await self._rows("SELECT user_id FROM configs WHERE id = %s", store)
        key = f"imports/{store}/{new_id()}.csv"
        await self.means.objects.put(key, content.encode(), "text/csv")
        facts = {"object_key": key, "file_name": "shop.csv", "kind": "import", "source": "shopify_csv", **values}
        return await insert(self.database, "jobs", config_id=store, user_id=str(user), **facts)

    async def job(self, id_: str) -> Any:
        [row] = await self._rows("SELECT row_to_json(jobs) FROM jobs WHERE id = %s", id_)
        return row[0]

    async def issues(self, id_: str) -> list[Any]:
        return await self._rows('SELECT number, "row", handle, field, message FROM job_issues WHERE job_id = %s ORDER BY 1', id_)

    async def _rows(self, sql: str, *values: Any) -> list[Any]:
        async with self.database.transaction() as connection:
            return list(await (await connection.raw.execute(sql, values)).fetchall())

    async def until(self, id_: str, holds: Callable[[Any], bool], seconds: float = 60) -> Any:
        async with asyncio.timeout(seconds):
            while not holds(job := await self.job(id_)):  # noqa: ASYNC110  another process moves it
                await asyncio.sleep(0.005)
        return job

    async def over(self, id_: str, seconds: float = 60) -> Any:
        return await self.until(id_, lambda job: job["finished_at"] is not None, seconds)

    @contextmanager
    def process(self, lease: float = 0.5) -> Iterator[subprocess.Popen[bytes]]:
        """A process that works."""
        words = [sys.executable, "-m", "tests.imports.workers", self.url, str(self.folder), str(lease)]
        running = subprocess.Popen([*words, *([self.shopify] if self.shopify else [])], cwd=ROOT)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


@pytest.fixture
async def yard(empty_url: str, database: Database, tmp_path: Path) -> Yard:
    return Yard(empty_url, database, tmp_path)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_writer, "MAX_BATCH_PRODUCTS", 20)


def counts(job: Any) -> list[int]:
    return [job[name] for name in ("rows", "created", "updated", "unchanged", "rejected")]


async def test_several_workers_do_each_job_once_and_one_of_a_store_at_a_time(yard: Yard) -> None:
    stores = [await make_store(yard.database) for _ in range(3)]
    ids = [await yard.file(catalogue(40, seed), store) for seed in range(3) for store in stores]
    most: dict[str, int] = {}

    async def watch() -> None:
        while True:
            for store, count in await yard._rows("SELECT config_id, count(*) FROM jobs WHERE status = 'running' GROUP BY 1"):
                most[str(store)] = max(count, most.get(str(store), 0))
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    async with yard.workers(count=2).running(), yard.workers(count=2).running():
        done = [await yard.over(id_) for id_ in ids]
    watching.cancel()
    assert {job["status"] for job in done} == {"succeeded"}
    assert set(most.values()) <= {1}
    [(logged,)] = await yard._rows("SELECT count(*) FROM changes")
    assert logged == sum(job["created"] + job["updated"] for job in done)


async def test_who_lost_a_job_writes_nothing(yard: Yard, small_batches: None) -> None:
    id_ = await yard.file(catalogue(100))
    first, second = Lease(id_, new_id(), 0.0), Lease(id_, new_id())
    taken = [await queue.claim_job(yard.database, mine.worker_id, mine.seconds) for mine in (first, second)]
    assert [row and row.id for row in taken] == [id_, id_]
    assert await queue.claim_job(yard.database, new_id()) is None
    row = await _row(yard, id_)
    with pytest.raises(LeaseLost):
        await run_job(yard.means, row, first)
    with pytest.raises(LeaseLost):
        await queue.heartbeat(yard.database, first)
    assert not await queue.finish_job(yard.database, first, "failed", {"message": "x"})
    assert await contents(yard.database, row.config_id) == []
    await queue.heartbeat(yard.database, second)
    await run_job(yard.means, row, second)
    assert await queue.finish_job(yard.database, second, "succeeded")


async def _row(yard: Yard, id_: str) -> Any:
    return await load_job(yard.database, id_)


async def test_a_job_that_is_worked_at_is_not_taken_over(yard: Yard) -> None:
    async with selling(Shopify([product(1)])) as shop:
        shop.faults = [Fault(429, {"retry-after": "2.5"})]
        yard.shopify = shop.url
        id_ = await live(yard)
        # A lease that is over long before the shop has answered.
        async with yard.workers(lease=1.0).running(), yard.workers(lease=1.0).running():
            job = await yard.over(id_)
        assert (job["status"], job["created"], len(shop.asked)) == ("succeeded", 1, 4)


async def live(yard: Yard, user: str | None = None) -> str:
    integrations = {"shopify": {"domain": DOMAIN, "accessToken": yard.means.vault.encrypt(TOKEN)}}
    user = user or await make_user(yard.database)
    store = await make_store(yard.database, user_id=user, integrations=integrations)
    return await insert(yard.database, "jobs", config_id=store, user_id=user, kind="import", source="shopify_store")


async def test_a_server_that_stops_leaves_its_job_to_the_next_at_once(yard: Yard, small_batches: None) -> None:
    file = catalogue(2_000)
    id_ = await yard.file(file)
    async with yard.workers(lease=600).running():
        await yard.until(id_, lambda job: job["rows"] > 100)
    left = await yard.job(id_)
    assert (left["status"], left["worker"]) == ("queued", None)
    async with yard.workers().running():
        done = await yard.over(id_)
    assert await outcome(yard, id_) == await undisturbed(yard, file)
    assert done["rows"] > left["rows"]


async def outcome(yard: Yard, id_: str) -> Any:
    """All that an import leaves behind, ids and dates aside."""
    job = await yard.job(id_)
    logged = "SELECT kind, count(*), min(version), max(version) FROM changes WHERE config_id = %s GROUP BY 1 ORDER BY 1"
    log = [tuple(row) for row in await yard._rows(logged, job["config_id"])]
    [(left,)] = await yard._rows("SELECT count(*) FROM job_handles WHERE job_id = %s", id_)
    told = [tuple(row) for row in await yard.issues(id_)]
    return job["status"], counts(job), job["position"], left, told, log, await contents(yard.database, job["config_id"])


async def undisturbed(yard: Yard, file: str) -> Any:
    id_ = await yard.file(file)
    async with yard.workers().running():
        await yard.over(id_, 600)
    return await outcome(yard, id_)


async def killed(yard: Yard, id_: str, times: int, random: Random) -> int:
    """Have processes work at it, one after the other, and kill so many of them; returns how many were killed at work."""
    hits = 0
    for _ in range(times):
        with yard.process() as process:
            before = (await yard.job(id_))["rows"]
            with suppress(TimeoutError):
                await yard.until(id_, lambda job, start=before: job["rows"] > start or job["finished_at"], 30)  # type: ignore[misc]
            await asyncio.sleep(random.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += (await yard.job(id_))["status"] == "running"
    with yard.process():
        await yard.over(id_, 300)
    return hits


async def test_an_import_that_is_killed_is_gone_on_with(yard: Yard) -> None:
    file = catalogue(8_000, 7) + "product-3,Late,,,,,,,,,,,,,5\nproduct-3,Later,,,,,,,,,,,,,5\n"
    id_ = await yard.file(file)
    assert await killed(yard, id_, 2, Random(3)) >= 1
    done = await outcome(yard, id_)
    assert done == await undisturbed(yard, file)
    assert done[0] == "succeeded"
    # Rows that came back long after their product, whoever had read the first ones.
    assert [issue[4] for issue in done[4] if issue[2] == "product-3" and "started on line" in issue[4]] != []


@pytest.mark.soak
async def test_fifty_thousand_rows_killed_again_and_again(yard: Yard) -> None:
    file = catalogue(50_000, 11)
    expected = await undisturbed(yard, file)
    for seed in range(3):
        id_ = await yard.file(file)
        assert await killed(yard, id_, 8, Random(seed)) >= 4
        assert await outcome(yard, id_) == expected


async def test_a_live_import_that_is_killed_goes_on_from_its_cursor(yard: Yard) -> None:
    async with selling(Shopify([product(n) for n in range(1, 121)], delay=0.3)) as shop:
        yard.shopify = shop.url
        id_ = await live(yard)
        with yard.process() as process:
            await yard.until(id_, lambda job: job["rows"] > 0 or job["finished_at"])
            process.send_signal(signal.SIGKILL)
            process.wait()
        left = await yard.job(id_)
        pages = [asked["variables"]["after"] for asked in shop.asked if "sortKey" in asked["query"]]
        shop.delay = 0
        async with yard.workers().running():
            done = await yard.over(id_)
        assert (left["status"], done["status"], done["created"]) == ("running", "succeeded", 120)
        later = [asked["variables"]["after"] for asked in shop.asked if "sortKey" in asked["query"]][len(pages) :]
        assert None not in later


@pytest.mark.usefixtures("small_batches")
async def test_what_fails_for_a_while_is_tried_again_and_then_given_up(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 2)
    monkeypatch.setattr("storefront.core.net.shopify_client.MIN_BACKOFF_SECONDS", 0.001)
    async with selling(Shopify([product(1)])) as shop:
        yard.shopify = shop.url
        shop.faults = [Fault(503)] * 5
        passing = await live(yard)
        async with yard.workers().running():
            assert (await yard.over(passing))["status"] == "succeeded"
            shop.faults = [Fault(503)] * 1_000
            lasting = await live(yard)
            job = await yard.over(lasting)
        assert job["status"] == "failed"
        assert job["error"]["field"] == "integrations.shopify"
        assert TOKEN not in orjson.dumps(job).decode()


async def test_a_job_that_kills_whoever_does_it_is_given_up(yard: Yard) -> None:
    id_ = await yard.file(catalogue(10), attempts=queue.MAX_JOB_ATTEMPTS)
    async with yard.workers().running():
        job = await yard.over(id_)
    assert (job["status"], job["created"]) == ("failed", 0)
    assert "came to no end" in job["error"]["message"]


async def test_job_fails_after_killing_two_workers(yard: Yard) -> None:
    # A shop that does not answer: whoever imports it is killed before it gets anywhere.
    async with selling(Shopify([product(1)], delay=600)) as shop:
        yard.shopify = shop.url
        id_ = await live(yard)
        for crashes in range(queue.MAX_JOB_CRASHES):
            shop.was_asked.clear()
            with yard.process() as process:
                async with asyncio.timeout(60):
                    await shop.was_asked.wait()
                process.send_signal(signal.SIGKILL)
                process.wait()
            left = await yard.job(id_)
            assert (left["status"], left["crashes"]) == ("running", crashes)
        asked = len(shop.asked)
        with yard.process():
            job = await yard.over(id_)
        assert (job["status"], job["crashes"], len(shop.asked)) == ("failed", 2, asked)
        assert "2 times the server's process ended" in job["error"]["message"]


async def test_progress_forgives_crashes_but_not_of_exports(yard: Yard) -> None:
    id_ = await yard.file(catalogue(10), crashes=1)
    export = await yard.file("", kind="export", source="catalogue", crashes=1)
    for job in (id_, export):
        worker = new_id()
        row = await queue.claim_job(yard.database, worker, max_running_per_owner=2)
        assert row is not None and row.id == job
        await run_job(yard.means, row, Lease(job, worker))
    assert [(await yard.job(job))["crashes"] for job in (id_, export)] == [0, 1]


async def test_stopped_server_is_no_crash(yard: Yard) -> None:
    async with selling(Shopify([product(1)], delay=600)) as shop:
        yard.shopify = shop.url
        id_ = await live(yard)
        async with yard.workers().running():
            await shop.was_asked.wait()
        assert ((await yard.job(id_))["status"], (await yard.job(id_))["crashes"]) == ("queued", 0)


async def test_refusal_of_the_database_fails_a_job_at_once(yard: Yard) -> None:
    # A rule that no row of the job's own can keep: class 23, of which trying again makes nothing better.
    async with yard.database.transaction() as connection:
        await connection.raw.execute("ALTER TABLE job_handles ADD CONSTRAINT never CHECK (false)")
    id_ = await yard.file(catalogue(10))
    async with yard.workers().running():
        job = await yard.over(id_)
    assert (job["status"], job["attempts"]) == ("failed", 1)


async def test_owner_with_many_jobs_does_not_delay_others(yard: Yard) -> None:
    async with selling(Shopify([product(1)], delay=600)) as shop:
        yard.shopify = shop.url
        hog = await make_user(yard.database)
        slow = [await live(yard, hog) for _ in range(40)]
        async with yard.workers(count=2).running():
            await shop.was_asked.wait()
            other = await yard.file(catalogue(10))
            # It is done while none of the slow ones is.
            assert (await yard.over(other))["status"] == "succeeded"
            running = [id_ for id_ in slow if (await yard.job(id_))["status"] == "running"]
            assert running == slow[:1]


async def test_owners_take_turns_where_one_job_runs(yard: Yard) -> None:
    users = {name: await make_user(yard.database) for name in "abc"}
    names = {}
    for owner in ("a", "a", "a", "b", "b", "c"):
        store = await make_store(yard.database, user_id=users[owner])
        names[await yard.file(catalogue(3), store)] = owner
    order = ""
    while row := await queue.claim_job(yard.database, worker := new_id()):
        order += names[row.id]
        assert await queue.finish_job(yard.database, Lease(row.id, worker), "succeeded")
    assert order == "abcaba"


async def test_claims_at_once_keep_to_an_owners_slots(yard: Yard) -> None:
    user = await make_user(yard.database)
    for _ in range(12):
        await yard.file(catalogue(3), await make_store(yard.database, user_id=user))
    rows = await asyncio.gather(*(queue.claim_job(yard.database, new_id(), 60, 3) for _ in range(8)))
    assert sum(row is not None for row in rows) == 3


async def test_file_larger_than_announced_is_refused(yard: Yard) -> None:
    id_ = await yard.file(catalogue(300))
    worker = new_id()
    row = await queue.claim_job(yard.database, worker)
    with pytest.raises(JobFailed, match="more than 1,000 bytes"):
        await run_job(replace(yard.means, max_bytes=1_000), row, Lease(id_, worker))


async def test_kept_errors_of_a_job_are_bounded(yard: Yard) -> None:
    id_ = await yard.file("Handle,Title,Price\n" + f"{'/' * 5_000},Mug,5\n" * 1_500)
    async with yard.workers().running():
        job = await yard.over(id_)
    assert (job["status"], job["rejected"]) == ("failed", 1_001)
    [(count, size)] = await yard._rows(
        "SELECT count(*), sum(length(handle) + length(message)) FROM job_issues WHERE job_id = %s", id_
    )
    assert count == 1_000 and size < 500_000


async def test_stored_variants_are_compared_in_parts(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "MAX_STORED_VARIANTS", 100)
    store = await make_store(yard.database)
    head = "Handle,Title,Option1 Name,Option1 Value,Price\n"
    sizes = "".join("".join(f"p-{n},P,Size,{size},5\n" for size in range(60)) for n in range(5))
    asked: list[str] = []
    async with yard.workers().running():
        await yard.over(await yard.file(head + sizes, store))
        yard.database.observers.append(asked.append)
        again = await yard.over(await yard.file(head + sizes, store))
        fewer = await yard.over(await yard.file(head + "".join(f"p-{n},P,Size,1,5\n" for n in range(5)), store))
    assert (again["unchanged"], fewer["updated"]) == (5, 5)
    # One product of 60 at a time, twice.
    assert sum("FROM product_variants" in sql and "ANY" in sql and sql.startswith("SELECT") for sql in asked) == 10
    [(left,)] = await yard._rows("SELECT count(*) FROM product_variants")
    assert left == 5


async def test_a_file_that_was_replaced_is_not_gone_on_with(yard: Yard, small_batches: None) -> None:
    file = catalogue(1_000)
    id_ = await yard.file(file)
    async with yard.workers().running():
        await yard.until(id_, lambda job: job["rows"] > 50)
    await yard.means.objects.put((await yard.job(id_))["object_key"], file[::-1].encode(), "text/csv")
    async with yard.workers().running():
        job = await yard.over(id_)
    assert job["status"] == "failed" and "was replaced" in job["error"]["message"]


async def test_one_product_that_cannot_be_stored_costs_no_other(yard: Yard) -> None:
    # Each of these characters folds into up to five, and nearly all words of four are different.
    dice, letters = Random(1), [chr(code) for code in range(0x3300, 0x3358)]
    words = ["".join(dice.choices(letters, k=4)) for _ in range(26_000)]
    tags = ", ".join(" ".join(words[13_000 + n : 26_000 : 250][:51]) for n in range(250))
    hard = f'mug-7,Mug,"{" ".join(words[:13_000])}","{tags}",5'
    rows = "".join(hard + "\n" if n == 7 else f"mug-{n},Mug,tea,,5\n" for n in range(20))
    id_ = await yard.file(f"Handle,Title,Body (HTML),Tags,Price\n{rows}")
    async with yard.workers().running():
        job = await yard.over(id_)
    assert (job["status"], job["created"], job["rejected"]) == ("succeeded", 19, 1)
    [issue] = await yard.issues(id_)
    assert (issue[2], "more text than can be searched" in issue[4]) == ("mug-7", True)


async def test_a_store_that_is_deleted_takes_its_import_along(yard: Yard, small_batches: None) -> None:
    id_ = await yard.file(catalogue(3_000))
    store = (await yard.job(id_))["config_id"]
    async with yard.workers().running():
        await yard.until(id_, lambda job: job["rows"] > 50)
        [(owner,)] = await yard._rows("SELECT user_id FROM configs WHERE id = %s", store)
        done = await execute_mutation(yard.database, MutationRequest(str(owner), "deleteConfig", {"id": store}), delete_config)
        assert not done.field_errors
        other = await yard.file(catalogue(10))
        assert (await yard.over(other))["status"] == "succeeded"
    assert await yard._rows("SELECT 1 FROM products WHERE config_id = %s", store) == []


async def test_requests_have_their_turn_while_products_are_imported(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece of an import keeps the loop for long: counted in CPU, so that a busy machine is no fault of it."""
    id_, pieces, step = await yard.file(catalogue(6_000)), [0.0], asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = thread_time()
        step(handle)
        pieces.append(thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    # As a server does: what was there before is not looked through again and again.
    gc.collect()
    gc.freeze()
    try:
        async with yard.workers().running():
            await yard.over(id_)
    finally:
        gc.unfreeze()
    assert len(pieces) > 1_000
    assert max(pieces) < 0.05


@pytest.mark.usefixtures("small_batches")
async def test_memory_does_not_grow_with_the_file(yard: Yard) -> None:
    async def peak(rows: int) -> int:
        id_ = await yard.file("Handle,Title,Price\n" + "".join(f"a-rather-long-handle-of-a-mug-{n},Mug,5\n" for n in range(rows)))
        tracemalloc.start()
        async with yard.workers().running():
            job = await yard.over(id_)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert job["created"] == rows
        return most

    await peak(100)
    few = await peak(400)
    # Six times the rows: the handles alone would be half a megabyte.
    assert await peak(2_400) < few + 200_000


async def test_old_jobs_and_files_are_swept(yard: Yard) -> None:
    kept, old = await yard.file(catalogue(5)), await yard.file(catalogue(5))
    forgotten = await yard.file(catalogue(5), status="uploading", created_at="2020-01-01T00:00:00Z")
    async with yard.workers().running():
        await yard.over(kept)
        await yard.over(old)
    await yard._rows("UPDATE jobs SET finished_at = '2020-01-01' WHERE id = %s RETURNING 1", old)
    assert await job_commands.sweep_jobs(yard.database, days=7) == 2
    assert await yard._rows("SELECT 1 FROM jobs WHERE id = ANY(%s)", [old, forgotten]) == []
    assert (await yard.job(kept))["status"] == "succeeded"
    # Of what succeeded the upload is gone already.
    assert [stored.key async for stored in yard.means.objects.list("imports/")] != []
    assert await sweep_files(yard.means.objects, days=7) == 0
    assert await sweep_files(yard.means.objects, days=-1) == 1
