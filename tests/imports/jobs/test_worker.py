"""Workers of the job queue: leases, fairness, retries, and resumption from checkpoints after a kill."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from time import thread_time
from typing import Any

import orjson
import pytest

from storefront.configs.commands import delete_config
from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.core.leases import Lease, LeaseLost
from storefront.feed.keyed_events import KeyedEvents
from storefront.imports import diff, job_commands, product_writer
from storefront.imports.exports import ExportFormat, export_products
from storefront.imports.jobs import handlers, queue
from storefront.imports.jobs.handlers import JobDependencies, run_job, sweep_files
from storefront.imports.jobs.queue import LEASE_SECONDS, JobFailed
from storefront.imports.jobs.worker import WorkerPool, WorkerTimings
from storefront.queries.jobs import load_job
from storefront.queries.store_lookup import find_row_key
from storefront.writes.transaction import MutationRequest, execute_mutation
from tests.factories import count_statements, insert, make_product, make_store, make_user
from tests.forks import FORK_SERVER
from tests.imports.catalogues import catalogue
from tests.imports.test_round_trip import load_contents
from tests.imports.workers import make_dependencies, run_jobs
from tests.loop_load import MAX_STALL_SECONDS
from tests.postgres_proxy import postgres_proxy
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, product, selling


@dataclass
class WorkerEnvironment:
    """A database, an object storage on disk, and workers."""

    url: str
    database: Database
    folder: Path
    shopify: str | None = None

    @property
    def dependencies(self) -> JobDependencies:
        return make_dependencies(self.database, self.folder, self.shopify)

    def workers(self, lease: float = 5.0, count: int = 1, per_owner: int = 1) -> WorkerPool:
        return WorkerPool(
            self.dependencies,
            KeyedEvents(),
            count,
            max_running_per_owner=per_owner,
            timings=WorkerTimings(lease_seconds=lease, poll_interval_seconds=0.05, min_retry_seconds=0.05),
        )

    async def queue_import(self, content: str, store: str | None = None, **values: Any) -> str:
        """Queue an import of a file; returns the id of the job."""
        store = store or await make_store(self.database)
        [(user,)] = await self._rows("SELECT user_id FROM configs WHERE id = %s", store)
        key = f"imports/{store}/{new_id()}.csv"
        await self.dependencies.objects.put(key, content.encode(), "text/csv")
        facts = {"object_key": key, "file_name": "shop.csv", "kind": "import", "source": "shopify_csv", **values}
        return await insert(self.database, "jobs", config_id=store, user_id=str(user), **facts)

    async def load_job(self, id_: str) -> Any:
        [row] = await self._rows("SELECT row_to_json(jobs) FROM jobs WHERE id = %s", id_)
        return row[0]

    async def load_issues(self, id_: str) -> list[Any]:
        return await self._rows('SELECT number, "row", handle, field, message FROM job_issues WHERE job_id = %s ORDER BY 1', id_)

    async def _rows(self, sql: str, *values: Any) -> list[Any]:
        async with self.database.transaction() as connection:
            return list(await (await connection.raw.execute(sql, values)).fetchall())

    async def wait_until(self, id_: str, holds: Callable[[Any], bool], seconds: float = 60) -> Any:
        async with asyncio.timeout(seconds):
            while not holds(job := await self.load_job(id_)):  # noqa: ASYNC110  another process moves it
                await asyncio.sleep(0.005)
        return job

    async def wait_until_finished(self, id_: str, seconds: float = 60) -> Any:
        return await self.wait_until(id_, lambda job: job["finished_at"] is not None, seconds)

    @contextmanager
    def process(self, lease: float = 0.5) -> Iterator[BaseProcess]:
        """A worker process, which is killed at the end."""
        process = FORK_SERVER.Process(target=run_jobs, args=(self.url, self.folder, lease, self.shopify))
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()


@pytest.fixture
async def env(empty_url: str, database: Database, tmp_path: Path) -> WorkerEnvironment:
    return WorkerEnvironment(empty_url, database, tmp_path)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_writer, "MAX_BATCH_PRODUCTS", 20)


def counts(job: Any) -> list[int]:
    return [job[name] for name in ("rows", "created", "updated", "unchanged", "rejected")]


async def test_workers_run_one_job_per_store(env: WorkerEnvironment) -> None:
    stores = [await make_store(env.database) for _ in range(3)]
    ids = [await env.queue_import(catalogue(40, seed), store) for seed in range(3) for store in stores]
    running_counts: dict[str, int] = {}

    async def watch() -> None:
        while True:
            for store, count in await env._rows("SELECT config_id, count(*) FROM jobs WHERE status = 'running' GROUP BY 1"):
                running_counts[str(store)] = max(count, running_counts.get(str(store), 0))
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    async with env.workers(count=2).running(), env.workers(count=2).running():
        done = [await env.wait_until_finished(id_) for id_ in ids]
    watching.cancel()
    assert {job["status"] for job in done} == {"succeeded"}
    assert set(running_counts.values()) <= {1}
    [(logged,)] = await env._rows("SELECT count(*) FROM changes")
    assert logged == sum(job["created"] + job["updated"] for job in done)


async def test_worker_that_lost_lease_writes_nothing(env: WorkerEnvironment, small_batches: None) -> None:
    id_ = await env.queue_import(catalogue(100))
    row = await _row(env, id_)
    first, second = make_lease(row, new_id(), 0.0), make_lease(row, new_id())
    taken = [await queue.claim_job(env.database, mine.worker_id, mine.seconds) for mine in (first, second)]
    assert [row and row.id for row in taken] == [id_, id_]
    assert await queue.claim_job(env.database, new_id()) is None
    with pytest.raises(LeaseLost):
        await run_job(env.dependencies, row, first)
    with pytest.raises(LeaseLost):
        await queue.heartbeat(env.database, first)
    assert not await queue.finish_job(env.database, first, "failed", {"message": "x"})
    assert await load_contents(env.database, row.config_id) == []
    await queue.heartbeat(env.database, second)
    await run_job(env.dependencies, row, second)
    assert await queue.finish_job(env.database, second, "succeeded")


async def _row(env: WorkerEnvironment, id_: str) -> Any:
    key = await find_row_key(env.database, id_)
    return await load_job(env.database, key) if key else None


def make_lease(job: Any, worker: str, seconds: float = LEASE_SECONDS) -> Lease:
    return Lease({"config_id": job.config_id, "id": job.id}, worker, seconds)


async def test_heartbeats_prevent_takeover(env: WorkerEnvironment) -> None:
    async with selling(Shopify([product(1)])) as shop:
        shop.faults = [Fault(429, {"retry-after": "2.5"})]
        env.shopify = shop.url
        id_ = await queue_shop_import(env)
        # The lease expires long before the shop responds.
        async with env.workers(lease=1.0).running(), env.workers(lease=1.0).running():
            job = await env.wait_until_finished(id_)
        assert (job["status"], job["created"], len(shop.asked)) == ("succeeded", 1, 4)


async def queue_shop_import(env: WorkerEnvironment, user: str | None = None) -> str:
    integrations = {"shopify": {"domain": DOMAIN, "accessToken": env.dependencies.vault.encrypt(TOKEN)}}
    user = user or await make_user(env.database)
    store = await make_store(env.database, user_id=user, integrations=integrations)
    return await insert(env.database, "jobs", config_id=store, user_id=user, kind="import", source="shopify_store")


async def test_shutdown_requeues_running_job(env: WorkerEnvironment, small_batches: None) -> None:
    file = catalogue(2_000)
    id_ = await env.queue_import(file)
    async with env.workers(lease=600).running():
        await env.wait_until(id_, lambda job: job["rows"] > 100)
    left = await env.load_job(id_)
    assert (left["status"], left["worker"]) == ("queued", None)
    async with env.workers().running():
        done = await env.wait_until_finished(id_)
    assert await load_outcome(env, id_) == await import_undisturbed(env, file)
    assert done["rows"] > left["rows"]


async def load_outcome(env: WorkerEnvironment, id_: str) -> Any:
    """The result of an import, without ids and timestamps."""
    job = await env.load_job(id_)
    logged = "SELECT kind, count(*), min(version), max(version) FROM changes WHERE config_id = %s GROUP BY 1 ORDER BY 1"
    log = [tuple(row) for row in await env._rows(logged, job["config_id"])]
    [(left,)] = await env._rows("SELECT count(*) FROM job_handles WHERE job_id = %s", id_)
    received = [tuple(row) for row in await env.load_issues(id_)]
    return job["status"], counts(job), job["position"], left, received, log, await load_contents(env.database, job["config_id"])


async def import_undisturbed(env: WorkerEnvironment, file: str) -> Any:
    id_ = await env.queue_import(file)
    async with env.workers().running():
        await env.wait_until_finished(id_, 600)
    return await load_outcome(env, id_)


async def run_and_kill(env: WorkerEnvironment, id_: str, times: int, random: Random) -> int:
    """Run the job in processes, one after the other, and kill so many of them; returns how many were killed while it ran."""
    hits = 0
    for _ in range(times):
        with env.process() as process:
            before = (await env.load_job(id_))["rows"]
            with suppress(TimeoutError):
                await env.wait_until(id_, lambda job, start=before: job["rows"] > start or job["finished_at"], 30)  # type: ignore[misc]
            await asyncio.sleep(random.uniform(0, 0.15))
            process.kill()
            process.join()
            hits += (await env.load_job(id_))["status"] == "running"
    with env.process():
        await env.wait_until_finished(id_, 300)
    return hits


async def test_killed_import_resumes_from_checkpoint(env: WorkerEnvironment) -> None:
    file = catalogue(4_000, 7) + "product-3,Late,,,,,,,,,,,,,5\nproduct-3,Later,,,,,,,,,,,,,5\n"
    id_ = await env.queue_import(file)
    assert await run_and_kill(env, id_, 2, Random(3)) >= 1
    done = await load_outcome(env, id_)
    assert done == await import_undisturbed(env, file)
    assert done[0] == "succeeded"
    # Repeated handles are detected across processes.
    assert [issue[4] for issue in done[4] if issue[2] == "product-3" and "started on line" in issue[4]] != []


@pytest.mark.soak
async def test_import_of_50000_rows_survives_repeated_kills(env: WorkerEnvironment) -> None:
    file = catalogue(50_000, 11)
    expected = await import_undisturbed(env, file)
    for seed in range(3):
        id_ = await env.queue_import(file)
        assert await run_and_kill(env, id_, 8, Random(seed)) >= 4
        assert await load_outcome(env, id_) == expected


async def test_killed_shop_import_resumes_from_cursor(env: WorkerEnvironment) -> None:
    async with selling(Shopify([product(n) for n in range(1, 121)], delay=0.3)) as shop:
        env.shopify = shop.url
        id_ = await queue_shop_import(env)
        with env.process() as process:
            await env.wait_until(id_, lambda job: job["rows"] > 0 or job["finished_at"])
            process.kill()
            process.join()
        left = await env.load_job(id_)
        pages = [asked["variables"]["after"] for asked in shop.asked if "sortKey" in asked["query"]]
        shop.delay = 0
        async with env.workers().running():
            done = await env.wait_until_finished(id_)
        assert (left["status"], done["status"], done["created"]) == ("running", "succeeded", 120)
        later = [asked["variables"]["after"] for asked in shop.asked if "sortKey" in asked["query"]][len(pages) :]
        assert None not in later


@pytest.mark.usefixtures("small_batches")
async def test_transient_errors_are_retried_then_fail(env: WorkerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 2)
    monkeypatch.setattr("storefront.core.net.shopify_client.MIN_BACKOFF_SECONDS", 0.001)
    async with selling(Shopify([product(1)])) as shop:
        env.shopify = shop.url
        shop.faults = [Fault(503)] * 5
        passing = await queue_shop_import(env)
        async with env.workers().running():
            assert (await env.wait_until_finished(passing))["status"] == "succeeded"
            shop.faults = [Fault(503)] * 1_000
            lasting = await queue_shop_import(env)
            job = await env.wait_until_finished(lasting)
        assert job["status"] == "failed"
        assert job["error"]["field"] == "integrations.shopify"
        assert TOKEN not in orjson.dumps(job).decode()


async def test_job_fails_after_max_attempts(env: WorkerEnvironment) -> None:
    id_ = await env.queue_import(catalogue(10), attempts=queue.MAX_JOB_ATTEMPTS)
    async with env.workers().running():
        job = await env.wait_until_finished(id_)
    assert (job["status"], job["created"]) == ("failed", 0)
    assert "did not finish" in job["error"]["message"]


async def test_job_fails_after_killing_two_workers(env: WorkerEnvironment) -> None:
    # The shop does not respond: workers are killed before they make progress.
    async with selling(Shopify([product(1)], delay=600)) as shop:
        env.shopify = shop.url
        id_ = await queue_shop_import(env)
        for crashes in range(queue.MAX_JOB_CRASHES):
            shop.was_asked.clear()
            with env.process() as process:
                async with asyncio.timeout(60):
                    await shop.was_asked.wait()
                process.kill()
                process.join()
            left = await env.load_job(id_)
            assert (left["status"], left["crashes"]) == ("running", crashes)
        asked = len(shop.asked)
        with env.process():
            job = await env.wait_until_finished(id_)
        assert (job["status"], job["crashes"], len(shop.asked)) == ("failed", 2, asked)
        assert "2 times the server's process ended" in job["error"]["message"]


async def test_checkpoint_resets_crashes(env: WorkerEnvironment) -> None:
    id_ = await env.queue_import(catalogue(10), crashes=1)
    export = await env.queue_import("", kind="export", source="catalogue", crashes=1)
    for job in (id_, export):
        worker = new_id()
        row = await queue.claim_job(env.database, worker, max_running_per_owner=2)
        assert row is not None and row.id == job
        await run_job(env.dependencies, row, make_lease(row, worker))
    assert [(await env.load_job(job))["crashes"] for job in (id_, export)] == [0, 0]


@pytest.mark.parametrize("export_format", ExportFormat)
async def test_killed_export_resumes_from_its_parts(
    env: WorkerEnvironment, monkeypatch: pytest.MonkeyPatch, export_format: ExportFormat
) -> None:
    store, objects = await make_store(env.database), env.dependencies.objects
    for n in range(350):
        await make_product(env.database, store, title=f"Product {n}", tags=["red"])
    # Too long for either format.
    unwritable = await make_product(env.database, store)
    await env._rows("UPDATE products SET description = %s WHERE id = %s RETURNING 1", "y" * 1_100_000, unwritable)
    job = await env.queue_import("", store, kind="export", source="catalogue", options={"format": export_format.value})
    monkeypatch.setattr(handlers, "EXPORT_PART_BYTES", 1)
    worker = new_id()
    row = await queue.claim_job(env.database, worker, 60)
    assert row is not None
    # Without a worker pool, which would requeue the job: its lease expires, as that of a killed process.

    async def list_exports() -> list[str]:
        return [stored.key async for stored in objects.list("exports/")]

    put, put_count, reached_third = type(objects).put, 0, asyncio.Event()

    async def put_two_parts(*arguments: Any, **options: Any) -> Any:
        nonlocal put_count
        put_count += 1
        if put_count > 2:
            reached_third.set()
            await asyncio.Event().wait()
        return await put(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(objects), "put", put_two_parts)
        run = asyncio.create_task(run_job(env.dependencies, row, make_lease(row, worker, 60)))
        await asyncio.wait_for(reached_third.wait(), 60)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    killed = await env.load_job(job)
    before = len(killed["checkpoint"]["parts"])
    assert (killed["status"], before) == ("running", 2)
    await env._rows("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = %s RETURNING 1", job)
    # The others in one part, which records its progress between its pages.
    monkeypatch.setattr(handlers, "EXPORT_PART_BYTES", 1_000_000_000)
    monkeypatch.setattr(handlers, "PROGRESS_INTERVAL_SECONDS", 0.0)
    with count_statements(env.database, looks=True) as statements:
        async with env.workers().running():
            done = await env.wait_until_finished(job)
            # The parts are deleted after it.
            async with asyncio.timeout(30):
                while len(await list_exports()) > 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    pages = [sql for sql in statements if "weight_before" in sql]
    assert 1 <= len(pages) <= 6 - before
    assert (done["status"], done["done"], done["rows"], done["total"]) == ("succeeded", 351, 351, 351)
    whole = b"".join([part async for part in export_products(env.database, store, export_format=export_format)])
    async with objects.open(done["object_key"]) as reader:
        assert b"".join([chunk async for chunk in reader.chunks]) == whole
    assert await list_exports() == [done["object_key"]]
    assert len(await env.load_issues(job)) == done["rejected"] == 1


async def test_export_whose_parts_are_gone_begins_again(env: WorkerEnvironment) -> None:
    store = await make_store(env.database)
    await make_product(env.database, store)
    checkpoint = {"parts": ["exports/a/b/000000-c"], "point": {"kept_columns": []}, "products": 7, "isComplete": True}
    values = {"kind": "export", "source": "catalogue", "checkpoint": checkpoint, "done": 7, "rows": 7}
    job = await env.queue_import("", store, **values)
    async with env.workers().running():
        done = await env.wait_until_finished(job)
    assert (done["status"], done["done"], done["rows"]) == ("succeeded", 1, 1)


async def test_shutdown_does_not_count_as_crash(env: WorkerEnvironment) -> None:
    async with selling(Shopify([product(1)], delay=600)) as shop:
        env.shopify = shop.url
        id_ = await queue_shop_import(env)
        async with env.workers().running():
            await shop.was_asked.wait()
        assert ((await env.load_job(id_))["status"], (await env.load_job(id_))["crashes"]) == ("queued", 0)


async def test_shutdown_without_database_ends_running_job(env: WorkerEnvironment) -> None:
    async with selling(Shopify([product(1)], delay=600)) as shop:
        env.shopify = shop.url
        id_ = await queue_shop_import(env)
        with postgres_proxy(env.url) as proxy:
            async with (
                asyncio.timeout(20),
                Database(proxy.url(), size=4, pool_timeout=0.3) as database,
                replace(env, database=database).workers().running(),
            ):
                await shop.was_asked.wait()
                proxy.cut_after = 0
                proxy.reset()
        # Another worker claims it when the lease has expired.
        assert (await env.load_job(id_))["status"] == "running"


async def test_permanent_database_error_fails_job_at_once(env: WorkerEnvironment) -> None:
    # A constraint that the job's rows always violate: SQLSTATE class 23, which is not retried.
    async with env.database.transaction() as connection:
        await connection.raw.execute("ALTER TABLE job_handles ADD CONSTRAINT never CHECK (false)")
    id_ = await env.queue_import(catalogue(10))
    async with env.workers().running():
        job = await env.wait_until_finished(id_)
    assert (job["status"], job["attempts"]) == ("failed", 1)


async def test_owner_with_many_jobs_does_not_delay_others(env: WorkerEnvironment) -> None:
    async with selling(Shopify([product(1)], delay=600)) as shop:
        env.shopify = shop.url
        hog = await make_user(env.database)
        slow = [await queue_shop_import(env, hog) for _ in range(40)]
        async with env.workers(count=2).running():
            await shop.was_asked.wait()
            other = await env.queue_import(catalogue(10))
            # It finishes before any of the slow jobs.
            assert (await env.wait_until_finished(other))["status"] == "succeeded"
            running = [id_ for id_ in slow if (await env.load_job(id_))["status"] == "running"]
            assert running == slow[:1]


@pytest.mark.parametrize("is_fetching_images", [False, True])
async def test_claims_alternate_between_owners(env: WorkerEnvironment, is_fetching_images: bool) -> None:
    users = {name: await make_user(env.database) for name in "abc"}
    names = {}
    for owner in ("a", "a", "a", "b", "b", "c"):
        store = await make_store(env.database, user_id=users[owner])
        names[await env.queue_import(catalogue(3), store, is_fetching_images=is_fetching_images)] = owner
    order = ""
    assert await queue.claim_job(env.database, new_id(), is_fetching_images=not is_fetching_images) is None
    while row := await queue.claim_job(env.database, worker := new_id(), is_fetching_images=is_fetching_images):
        order += names[row.id]
        assert await queue.finish_job(env.database, make_lease(row, worker), "succeeded")
    assert order == "abcaba"


async def test_concurrent_claims_respect_limit_per_owner(env: WorkerEnvironment) -> None:
    user = await make_user(env.database)
    # Imports that fetch images have slots of their own.
    for is_fetching_images in (False, True):
        for _ in range(12):
            store = await make_store(env.database, user_id=user)
            await env.queue_import(catalogue(3), store, is_fetching_images=is_fetching_images)
        claims = [queue.claim_job(env.database, new_id(), 60, 3, is_fetching_images=is_fetching_images) for _ in range(8)]
        assert sum(row is not None for row in await asyncio.gather(*claims)) == 3


async def test_file_larger_than_declared_is_rejected(env: WorkerEnvironment) -> None:
    await env.queue_import(catalogue(300))
    worker = new_id()
    row = await queue.claim_job(env.database, worker)
    assert row is not None
    with pytest.raises(JobFailed, match="more than 1,000 bytes"):
        await run_job(replace(env.dependencies, max_bytes=1_000), row, make_lease(row, worker))


async def test_stored_row_errors_are_bounded(env: WorkerEnvironment) -> None:
    id_ = await env.queue_import("Handle,Title,Price\n" + f"{'/' * 5_000},Mug,5\n" * 1_500)
    async with env.workers().running():
        job = await env.wait_until_finished(id_)
    assert (job["status"], job["rejected"]) == ("failed", 1_001)
    [(count, size)] = await env._rows(
        "SELECT count(*), sum(length(handle) + length(message)) FROM job_issues WHERE job_id = %s", id_
    )
    assert count == 1_000 and size < 500_000


async def test_stored_variants_are_compared_in_parts(env: WorkerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "MAX_STORED_VARIANTS", 100)
    store = await make_store(env.database)
    head = "Handle,Title,Option1 Name,Option1 Value,Price\n"
    sizes = "".join("".join(f"p-{n},P,Size,{size},5\n" for size in range(60)) for n in range(5))
    asked: list[str] = []
    async with env.workers().running():
        await env.wait_until_finished(await env.queue_import(head + sizes, store))
        env.database.observers.append(asked.append)
        again = await env.wait_until_finished(await env.queue_import(head + sizes, store))
        rows = "".join(f"p-{n},P,Size,1,5\n" for n in range(5))
        fewer = await env.wait_until_finished(await env.queue_import(head + rows, store, options={"deleteMissingVariants": True}))
    assert (again["unchanged"], fewer["updated"]) == (5, 5)
    # One product of 60 is compared at a time, twice.
    assert sum("FROM product_variants" in sql and "ANY" in sql and sql.startswith("SELECT") for sql in asked) == 10
    [(left,)] = await env._rows("SELECT count(*) FROM product_variants")
    assert left == 5


async def test_replaced_file_fails_resumed_import(env: WorkerEnvironment, small_batches: None) -> None:
    file = catalogue(1_000)
    id_ = await env.queue_import(file)
    async with env.workers().running():
        await env.wait_until(id_, lambda job: job["rows"] > 50)
    await env.dependencies.objects.put((await env.load_job(id_))["object_key"], file[::-1].encode(), "text/csv")
    async with env.workers().running():
        job = await env.wait_until_finished(id_)
    assert job["status"] == "failed" and "was replaced" in job["error"]["message"]


async def test_product_beyond_search_limit_is_stored(env: WorkerEnvironment) -> None:
    # Each of these characters folds into up to five, and nearly all four-letter words are distinct.
    dice, letters = Random(1), [chr(code) for code in range(0x3300, 0x3358)]
    words = ["".join(dice.choices(letters, k=4)) for _ in range(26_000)]
    tags = ", ".join(" ".join(words[13_000 + n : 26_000 : 250][:51]) for n in range(250))
    hard = f'mug-7,Mug,"{" ".join(words[:13_000])}","{tags}",5'
    rows = "".join(hard + "\n" if n == 7 else f"mug-{n},Mug,tea,,5\n" for n in range(20))
    id_ = await env.queue_import(f"Handle,Title,Body (HTML),Tags,Price\n{rows}")
    async with env.workers().running():
        job = await env.wait_until_finished(id_)
    assert (job["status"], job["created"], job["rejected"]) == ("succeeded", 20, 0)


async def test_deleting_store_ends_its_import(env: WorkerEnvironment, small_batches: None) -> None:
    id_ = await env.queue_import(catalogue(3_000))
    store = (await env.load_job(id_))["config_id"]
    async with env.workers().running():
        await env.wait_until(id_, lambda job: job["rows"] > 50)
        [(owner,)] = await env._rows("SELECT user_id FROM configs WHERE id = %s", store)
        done = await execute_mutation(env.database, MutationRequest(str(owner), "deleteConfig", {"id": store}), delete_config)
        assert not done.field_errors
        other = await env.queue_import(catalogue(10))
        assert (await env.wait_until_finished(other))["status"] == "succeeded"
    assert await env._rows("SELECT 1 FROM products WHERE config_id = %s", store) == []


async def test_import_does_not_block_event_loop(env: WorkerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """No callback of an import blocks the event loop for long, measured in CPU time: independent of the load of the machine."""
    id_, pieces, step = await env.queue_import(catalogue(6_000)), [0.0], asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = thread_time()
        step(handle)
        pieces.append(thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    # As a server does: objects from before are not scanned by the garbage collector.
    gc.collect()
    gc.freeze()
    try:
        async with env.workers().running():
            await env.wait_until_finished(id_)
    finally:
        gc.unfreeze()
    assert len(pieces) > 1_000
    assert max(pieces) < MAX_STALL_SECONDS


@pytest.mark.usefixtures("small_batches")
async def test_memory_is_independent_of_file_size(env: WorkerEnvironment) -> None:
    async def peak(rows: int) -> int:
        id_ = await env.queue_import(
            "Handle,Title,Price\n" + "".join(f"a-rather-long-handle-of-a-mug-{n},Mug,5\n" for n in range(rows))
        )
        tracemalloc.start()
        async with env.workers().running():
            job = await env.wait_until_finished(id_)
        _, running_counts = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert job["created"] == rows
        return running_counts

    await peak(100)
    few = await peak(400)
    # Six times the rows: the handles alone would take half a megabyte.
    assert await peak(2_400) < few + 200_000


async def test_sweep_deletes_old_jobs_and_files(env: WorkerEnvironment) -> None:
    kept, old = await env.queue_import(catalogue(5)), await env.queue_import(catalogue(5))
    forgotten = await env.queue_import(catalogue(5), status="uploading", created_at="2020-01-01T00:00:00Z")
    async with env.workers().running():
        await env.wait_until_finished(kept)
        await env.wait_until_finished(old)
        # The upload of a successful import is deleted after the job has ended.
        async with asyncio.timeout(60):
            while len([stored.key async for stored in env.dependencies.objects.list("imports/")]) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    await env._rows("UPDATE jobs SET finished_at = '2020-01-01' WHERE id = %s RETURNING 1", old)
    assert await job_commands.sweep_jobs(env.database, days=7) == 2
    assert await env._rows("SELECT 1 FROM jobs WHERE id = ANY(%s)", [old, forgotten]) == []
    assert (await env.load_job(kept))["status"] == "succeeded"
    assert await sweep_files(env.dependencies.objects, days=7) == 0
    assert await sweep_files(env.dependencies.objects, days=-1) == 1
