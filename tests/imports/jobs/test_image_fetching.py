"""Imports fetch images that are hosted elsewhere: what is stored, what is listed, and where an interrupted import goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.core.image_processing import ImageProcessor
from storefront.core.net.network_policy import NetworkPolicy
from storefront.core.net.safe_http import SafeHttpClient
from storefront.imports import job_commands
from storefront.imports.jobs import queue
from storefront.imports.jobs.handlers import JobDependencies, run_job
from storefront.media import remote_images
from storefront.media.remote_images import RemoteImages
from storefront.writes.transaction import MutationRequest, execute_mutation
from tests.factories import make_product, make_store
from tests.imports.jobs.test_worker import WorkerEnvironment, make_lease
from tests.imports.workers import make_dependencies
from tests.pictures import picture
from tests.ports import free_port

HEADER = "Handle,Title,Option1 Name,Option1 Value,Variant SKU,Variant Price,Image Src,Image Position,Image Alt Text,Variant Image"
MAX_BYTES = 20_000
BASE_URL = "http://localhost"

Response = tuple[int, Mapping[str, str], bytes]


@dataclass
class PictureServer:
    """A web server with these responses by path, and the requests that it got."""

    responses: dict[str, Response]
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    # Responses wait until it is set.
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[Any] | None] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        self.requests[path] += 1
        await self.is_open.wait()
        status, headers, body = self.responses.get(path, (404, {}, b""))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} -\r\n{lines}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()


@asynccontextmanager
async def serving_pictures(responses: Mapping[str, Response]) -> AsyncIterator[PictureServer]:
    pictures = PictureServer(dict(responses))
    pictures.is_open.set()
    server = await asyncio.start_server(pictures.answer, "127.0.0.1", 0)
    pictures.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        try:
            yield pictures
        finally:
            # The responses that nobody waits for any more.
            pictures.is_open.set()
            await asyncio.gather(*filter(None, pictures.tasks), return_exceptions=True)


@dataclass
class FetchingEnvironment(WorkerEnvironment):
    """Workers that fetch images from this machine."""

    images: RemoteImages | None = None

    @property
    def dependencies(self) -> JobDependencies:
        return make_dependencies(self.database, self.folder, image_fetcher=self.images)

    async def import_file(self, content: str, store: str, **options: Any) -> Any:
        """Import a file; returns the finished job."""
        job = await self.queue_import(content, store, options={"fetchImages": True, **options})
        async with self.workers().running():
            return await self.wait_until_finished(job)

    async def import_products(self, job: str) -> None:
        """Run the first phase of an import."""
        assert await self.workers().run_next_job()
        row = await self.load_job(job)
        assert (row["status"], row["is_fetching_images"], row["finished_at"]) == ("queued", True, None), row["error"]

    @asynccontextmanager
    async def fetching_until_killed(self, job: str) -> AsyncIterator[None]:
        """Fetch the images of an import, by a worker that is killed at the end; its lease expires then."""
        worker = new_id()
        row = await queue.claim_job(self.database, worker, 0.1, is_fetching_images=True)
        assert row is not None and row.id == job
        run = asyncio.create_task(run_job(self.dependencies, row, make_lease(row, worker, 0.1)))
        yield
        assert not run.done()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await asyncio.sleep(0.2)

    async def change_job(self, command: Callable[..., Any], job: str) -> None:
        """Cancel or retry a job as its owner does."""
        request = MutationRequest((await self.load_job(job))["user_id"], command.__name__, {"id": job})
        await execute_mutation(self.database, request, command)

    async def load_product(self, store: str, handle: str = "shirt") -> Any:
        sql = """SELECT row_to_json(shown) FROM (SELECT id, images, image_alts, version, (
          SELECT json_agg(image ORDER BY position) FROM product_variants WHERE product_id = products.id) AS variants
          FROM products WHERE config_id = %s AND handle = %s) AS shown"""
        [(product,)] = await self._rows(sql, store, handle)
        return product


@pytest.fixture
async def env(empty_url: str, database: Database, tmp_path: Path) -> AsyncIterator[FetchingEnvironment]:
    client = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]))
    processor = ImageProcessor(1_000_000)
    environment = FetchingEnvironment(empty_url, database, tmp_path)
    objects = environment.dependencies.objects
    environment.images = RemoteImages(database, objects, processor, client, MAX_BYTES, BASE_URL)
    async with client.running(), processor.running():
        yield environment


def build_png() -> bytes:
    return picture("PNG", size=(60, 40))


async def test_import_replaces_remote_images(env: FetchingEnvironment) -> None:
    png, jpeg = build_png(), picture(size=(60, 40))
    responses: dict[str, Response] = {
        "/a.png": (200, {"content-type": "text/plain"}, png),
        "/b.jpg": (302, {"location": "/c.jpg?w=1"}, b""),
        "/c.jpg?w=1": (200, {}, jpeg),
        "/page": (200, {"content-type": "image/png"}, b"<html>no picture</html>"),
        "/big.png": (200, {}, b"\x89PNG\r\n\x1a\n" + b"x" * MAX_BYTES),
        "/loop": (301, {"location": "/loop"}, b""),
        # The network policy is applied to each address.
        "/private": (302, {"location": "http://127.0.0.2/secret"}, b""),
    }
    async with serving_pictures(responses) as pictures:
        urls = [f"{pictures.url}{path}" for path in ("/a.png", "/b.jpg", "/none", "/page", "/big.png", "/loop", "/private")]
        first, *others = urls
        lines = [f"shirt,Shirt,Size,S,S-1,20,{first},1,In front,{first}", "shirt,,,M,S-2,21,,,,"]
        lines += [f"shirt,,,,,,{url},{n},," for n, url in enumerate(others, 2)]
        file, store = "\n".join([HEADER, *lines]), await make_store(env.database)
        for options in ({"fetchImages": False}, {"preview": True}):
            job = await env.import_file(file, store, **options)
            assert (job["status"], pictures.requests) == ("succeeded", Counter()), job["error"]
        job = await env.import_file(file, store)
        assert (job["status"], job["rejected"]) == ("succeeded", 0), job["error"]
        progress = {name: job["checkpoint"]["images"][name] for name in ("fetched", "failed")}
        assert progress == {"fetched": 2, "failed": 5}
        problems = [(handle, column, text) for _, _, handle, column, text in await env.load_issues(job["id"])]
        assert [(handle, column) for handle, column, _ in problems] == [("shirt", "images")] * 5
        reasons = ("status 404", "no JPEG, PNG", "more than 20,000 bytes", "redirected more than 3 times", "neither public nor")
        assert all(reason in text and url in text for reason, url, (*_, text) in zip(reasons, urls[2:], problems, strict=True))

        product = await env.load_product(store)
        stored = product["images"][:2]
        assert all(url.startswith(f"{BASE_URL}/media/") for url in stored) and product["images"][2:] == urls[2:]
        assert product["variants"] == [stored[0], None] and product["image_alts"] == {}
        rows = await env._rows("SELECT id::text, place, alt, source_url, product_id::text FROM images ORDER BY alt NULLS LAST")
        assert [row[2:] for row in rows] == [("In front", urls[0], product["id"]), (None, urls[1], product["id"])]
        assert [stored[n].split("/")[4][:36] for n in range(2)] == [row[0] for row in rows]
        assert {stored.key.rpartition("/")[0] async for stored in env.dependencies.objects.list("media/")} == {
            row[1] for row in rows
        }
        logged = await env._rows("SELECT changed_fields FROM changes WHERE config_id = %s ORDER BY position DESC LIMIT 2", store)
        assert sorted(list(fields) for (fields,) in logged) == [["images"], ["variants.image"]]

        # The same file changes nothing, and what was fetched is not fetched again.
        pictures.requests.clear()
        again = await env.import_file(file, store)
        assert (again["unchanged"], again["updated"], again["rejected"]) == (1, 0, 0)
        assert await env.load_product(store) == product
        assert not pictures.requests.keys() & {"/a.png", "/b.jpg"} and pictures.requests["/none"] == 1
        # A file without images says nothing about them.
        pictures.requests.clear()
        await env.import_file("Handle,Variant SKU,Variant Price\nshirt,S-1,30\n", store)
        assert not pictures.requests
        # Alternative texts of fetched images are theirs.
        changed = await env.import_file(file.replace("In front", "From behind"), store)
        assert changed["updated"] == 1
        assert await env._rows("SELECT count(*) FROM images WHERE alt = 'From behind'") == [(1,)]
        assert (await env.load_product(store))["images"] == product["images"]


async def test_killed_import_goes_on_with_the_next_image(env: FetchingEnvironment) -> None:
    png, count = build_png(), 30
    responses: dict[str, Response] = {f"/{n}.png": (200, {}, png) for n in range(count)}
    async with serving_pictures(responses) as pictures:
        rows = "".join(f"p{n:02},Product {n},,,S-{n},5,{pictures.url}/{n}.png,1,,\n" for n in range(count))
        store = await make_store(env.database)
        job = await env.queue_import(f"{HEADER}\n{rows}", store, options={"fetchImages": True})
        await env.import_products(job)
        async with env.fetching_until_killed(job):
            await env.wait_until(job, lambda job: (job["checkpoint"].get("images") or {}).get("fetched", 0) >= 5)
        assert len(pictures.requests) < count
        async with env.workers().running():
            done = await env.wait_until_finished(job)
        assert (done["status"], done["rows"], done["created"]) == ("succeeded", count, count)
        # The one that was being fetched is fetched twice at most.
        assert sum(pictures.requests.values()) <= count + 1
        [(stored,)] = await env._rows("SELECT count(DISTINCT product_id) FROM images WHERE config_id = %s", store)
        assert stored == count


async def test_imports_do_not_wait_for_images_of_another(env: FetchingEnvironment) -> None:
    async with serving_pictures({"/a.png": (200, {}, build_png())}) as pictures:
        pictures.is_open.clear()
        store, url = await make_store(env.database), f"{pictures.url}/a.png"
        file = f"{HEADER}\nshirt,Shirt,Size,S,S-1,20,{url},1,In front,{url}\n"
        first, second = [await env.queue_import(file, store, options={"fetchImages": True}) for _ in range(2)]
        async with env.workers(count=2, per_owner=2).running():
            for job in (first, second):
                await env.wait_until(job, lambda job: job["is_fetching_images"] and job["status"] == "running")
            # The host does not respond. Both wait for it, and the next import of the store does not.
            await _wait_for_requests(pictures, 2)
            third = await env.queue_import("Handle,Title,Variant SKU,Variant Price\nshirt,Tee,S-1,30\n", store)
            assert (await env.wait_until_finished(third))["updated"] == 1
            waiting = [await env.load_job(job) for job in (first, second)]
            assert [(job["status"], job["finished_at"]) for job in waiting] == [("running", None)] * 2
            pictures.is_open.set()
            done = [await env.wait_until_finished(job) for job in (first, second)]
        assert [job["status"] for job in done] == ["succeeded"] * 2, [job["error"] for job in done]
        # One of the two images is shown and stored, and the later import is not undone.
        assert sorted(job["checkpoint"]["images"]["fetched"] for job in done) == [0, 1]
        product = await env.load_product(store)
        assert [product["images"]] == [product["variants"]] and product["images"][0].startswith(f"{BASE_URL}/media/")
        assert await env._rows("SELECT price FROM product_variants WHERE config_id = %s", store) == [("30.00",)]
        [(place,)] = await env._rows("SELECT place FROM images WHERE config_id = %s", store)
        assert {stored.key.rpartition("/")[0] async for stored in env.dependencies.objects.list("media/")} == {place}


async def _wait_for_requests(pictures: PictureServer, count: int) -> None:
    async with asyncio.timeout(60):
        while pictures.requests.total() < count:  # noqa: ASYNC110  the server counts them
            await asyncio.sleep(0.005)


async def test_fetching_is_cancelled_and_retried(env: FetchingEnvironment) -> None:
    async with serving_pictures({"/a.png": (200, {}, build_png())}) as pictures:
        pictures.is_open.clear()
        store = await make_store(env.database)
        job = await env.queue_import(
            f"{HEADER}\nshirt,Shirt,,,S-1,5,{pictures.url}/a.png,1,,\n", store, options={"fetchImages": True}
        )
        # A server that is stopped leaves it to others at once.
        async with env.workers(lease=60).running():
            await _wait_for_requests(pictures, 1)
        stopped = await env.load_job(job)
        assert (stopped["status"], stopped["worker"], stopped["is_fetching_images"]) == ("queued", None, True)
        # It is cancelled while it waits, and while the host does not respond.
        await env.change_job(job_commands.cancel_job, job)
        assert (await env.load_job(job))["status"] == "cancelled"
        await env.change_job(job_commands.retry_job, job)
        async with env.workers(lease=0.3).running():
            await _wait_for_requests(pictures, 2)
            await env.change_job(job_commands.cancel_job, job)
            assert (await env.wait_until_finished(job))["status"] == "cancelled"
        # A retry fetches the images, and imports no product again.
        await env.change_job(job_commands.retry_job, job)
        pictures.is_open.set()
        async with env.workers().running():
            done = await env.wait_until_finished(job)
        assert (done["status"], done["rows"], done["created"]) == ("succeeded", 1, 1)
        assert (done["checkpoint"]["images"]["fetched"], pictures.requests) == (1, {"/a.png": 3})
        assert await env._rows("SELECT 1 FROM job_handles") == []


async def test_import_that_is_cancelled_as_its_products_end_fetches_nothing(env: FetchingEnvironment) -> None:
    job = await env.queue_import(f"{HEADER}\nshirt,Shirt,,,S-1,5,http://127.0.0.1/a.png,1,,\n", options={"fetchImages": True})
    worker = new_id()
    row = await queue.claim_job(env.database, worker)
    assert row is not None
    lease = make_lease(row, worker)
    assert await run_job(env.dependencies, row, lease) is None
    await env.change_job(job_commands.cancel_job, job)
    with pytest.raises(queue.Cancelled):
        await queue.queue_image_fetching(env.database, lease)
    left = await env.load_job(job)
    assert (left["status"], left["is_fetching_images"]) == ("running", False)


async def test_fetching_that_kills_its_workers_fails(env: FetchingEnvironment) -> None:
    async with serving_pictures({}) as pictures:
        pictures.is_open.clear()
        file = f"{HEADER}\nshirt,Shirt,,,S-1,5,{pictures.url}/a.png,1,,\n"
        job = await env.queue_import(file, options={"fetchImages": True})
        await env.import_products(job)
        for count in range(1, queue.MAX_JOB_CRASHES + 1):
            async with env.fetching_until_killed(job):
                await _wait_for_requests(pictures, count)
        async with env.workers().running():
            done = await env.wait_until_finished(job)
        assert (done["status"], done["created"]) == ("failed", 1)
        assert "2 times the server's process ended" in done["error"]["message"]


async def test_host_that_is_gone_is_given_up(env: FetchingEnvironment) -> None:
    count = remote_images.MAX_HOST_FAILURES + 4
    gone = f"http://127.0.0.1:{free_port()}"
    rows = "".join(f"p{n},Product,,,,5,{gone}/{n}.png,1,,\n" for n in range(count))
    job = await env.import_file(f"{HEADER}\n{rows}", await make_store(env.database))
    texts = [text for *_, text in await env.load_issues(job["id"])]
    assert (job["status"], len(texts)) == ("succeeded", count)
    refused, skipped = [[text for text in texts if part in text] for part in ("connection was refused", "5 others of its host")]
    assert (len(refused), len(skipped)) == (remote_images.MAX_HOST_FAILURES, 4)


async def test_image_that_a_product_no_longer_has_is_discarded(env: FetchingEnvironment) -> None:
    assert env.images is not None
    store = await make_store(env.database)
    product = await make_product(env.database, store)
    [(owner,)] = await env._rows("SELECT user_id::text FROM configs WHERE id = %s", store)
    async with serving_pictures({"/a.png": (200, {}, build_png())}) as pictures, env.images.session(store, owner) as session:
        assert await session.fetch_images(product, [f"{pictures.url}/a.png"]) == (0, [])
        assert pictures.requests["/a.png"] == 1
    assert [stored.key async for stored in env.dependencies.objects.list("media/")] == []
    assert await env._rows("SELECT 1 FROM images") == []
