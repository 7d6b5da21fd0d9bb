"""Object storage in a folder and in a bucket behaves alike: the same tests over real sockets, with a plain HTTP client."""

import asyncio
import itertools
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import pytest_asyncio
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette

from storefront import doctor
from storefront.core.ids import uuid7
from storefront.core.settings import Settings
from storefront.core.storage import s3
from storefront.core.storage.base import (
    ObjectNotFoundError,
    ObjectStorage,
    SizeMismatchError,
    StorageError,
    StorageFullError,
    delete_prefix,
    read_object,
)
from storefront.core.storage.disk import DiskStorage
from storefront.core.storage.factory import create_object_storage
from storefront.core.storage.s3 import Bucket, S3Storage
from storefront.serving.http.storage_endpoint import create_storage_routes
from storefront.serving.protection.security_headers import SecurityHeadersMiddleware
from tests.ports import free_port
from tests.s3 import S3Server

# Minimum size of a part, except for the last one.
PART = 5_242_880
CSV = b"handle,title\n" + b"mug,A mug\n" * 1_000


@asynccontextmanager
async def serve_disk(folder: Path) -> AsyncIterator[DiskStorage]:
    """Storage in a folder behind its endpoint, on a real socket."""
    port = free_port()
    disk = DiskStorage(folder, f"http://127.0.0.1:{port}", "the secret of a server, long enough")
    app = SecurityHeadersMiddleware(Starlette(routes=create_storage_routes(disk)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  it has no event for it
        await asyncio.sleep(0.01)
    async with disk.running():
        yield disk
    server.should_exit = True
    await task


@pytest_asyncio.fixture(params=["disk", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server) -> AsyncIterator[ObjectStorage]:
    if request.param == "disk":
        async with serve_disk(tmp_path) as disk:
            yield disk
        return
    bucket_storage = s3_server.bucket(f"bucket-{uuid7().hex}")
    async with bucket_storage.running():
        yield bucket_storage


@pytest_asyncio.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    async with serve_disk(tmp_path) as opened_disk:
        yield opened_disk


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


async def split_chunks(content: bytes, size: int = 65_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


# ------------------------------------------------------------------------------------------------------ folder and bucket


async def test_presigned_put_is_read_back(objects: ObjectStorage, http: httpx.AsyncClient) -> None:
    permit = objects.presign_put("uploads/rows/one", content_type="text/csv", size=len(CSV), seconds=60)
    answer = await http.request(permit.method, permit.url, headers=dict(permit.headers), content=CSV)
    assert answer.status_code == 200 and 55 < permit.expires_at.timestamp() - time() <= 61
    stored = await objects.head("uploads/rows/one")
    assert (
        stored
        and (stored.size, stored.content_type) == (len(CSV), "text/csv")
        and abs(stored.modified_at.timestamp() - time()) < 5
    )
    async with objects.open("uploads/rows/one") as reading:
        chunks = [chunk async for chunk in reading.chunks]
    assert b"".join(chunks) == CSV and reading.stored_object == stored


async def test_presigned_get_sets_file_name(objects: ObjectStorage, http: httpx.AsyncClient) -> None:
    await objects.put("exports/one.csv", CSV, "text/csv")
    answer = await http.get(objects.presign_get("exports/one.csv", seconds=60, filename='Töpfe "2026".csv'))
    assert answer.content == CSV and answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith("attachment; filename")
    assert "T%C3%B6pfe%20%222026%22.csv" in answer.headers["content-disposition"]
    assert (await http.get(objects.presign_get("exports/two.csv", seconds=60))).status_code == 404


@pytest.mark.parametrize("length", [0, 1, PART, PART + 1, 2 * PART, 2 * PART + 12_345])
async def test_stream_of_unknown_length_is_written(objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    content = (bytes(range(251)) * (length // 251 + 1))[:length]
    assert await objects.put("exports/many", split_chunks(content), "text/csv") == length
    assert await read_object(objects, "exports/many", length) == content
    stored = await objects.head("exports/many")
    assert stored and (stored.size, stored.content_type) == (length, "text/csv")


async def test_interrupted_write_leaves_no_object(objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    await objects.put("exports/kept", b"before", "text/csv")

    async def failing() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"x" * 1_000_000
        raise ArithmeticError("the rows ran out")

    for key in ("exports/kept", "exports/new"):
        with pytest.raises(ArithmeticError):
            await objects.put(key, failing(), "text/csv")
    assert await read_object(objects, "exports/kept", 100) == b"before"
    assert await objects.head("exports/new") is None
    assert [stored.key async for stored in objects.list("exports/")] == ["exports/kept"]


async def test_missing_object_raises(objects: ObjectStorage) -> None:
    with pytest.raises(ObjectNotFoundError):
        async with objects.open("uploads/none"):
            pass
    assert await objects.head("uploads/none") is None
    await objects.delete("uploads/none")
    assert [stored async for stored in objects.list("uploads/")] == []


async def test_read_object_stops_beyond_its_limit(objects: ObjectStorage) -> None:
    await objects.put("uploads/large", b"x" * 100_000, "text/csv")
    with pytest.raises(SizeMismatchError):
        await read_object(objects, "uploads/large", 99_999)


async def test_objects_are_listed_and_deleted_by_prefix(objects: ObjectStorage) -> None:
    keys = [f"media/{number:04}/full.webp" for number in range(12)]
    for key in (*keys, "media-other/one", "exports/one"):
        await objects.put(key, b"x", "image/webp")
    found = [stored async for stored in objects.list("media/")]
    assert [stored.key for stored in found] == keys and {stored.size for stored in found} == {1}
    assert all(abs(stored.modified_at.timestamp() - time()) < 10 for stored in found)
    assert await delete_prefix(objects, "media/0003/") == 1
    assert await delete_prefix(objects, "media/") == 11
    assert await objects.head("exports/one") and await objects.head("media-other/one")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../secret", "a/../../secret", "a//b", "a/./b", "A", "a b", "a\\b", "a\0", "a/", ".a"]
)
async def test_invalid_key_is_rejected(objects: ObjectStorage, key: str) -> None:
    for presign in (objects.presign_get, objects.presign_put):
        with pytest.raises(ValueError, match="is not a valid object key"):
            presign(key, seconds=60, **({} if presign == objects.presign_get else {"content_type": "text/csv", "size": 1}))  # type: ignore[arg-type]
    for work in (objects.head(key), objects.delete(key), objects.put(key, b"", "text/csv")):
        with pytest.raises(ValueError, match="is not a valid object key"):
            await work


# ---------------------------------------------------------------------------------------------------- endpoint of the folder


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def upload(http: httpx.AsyncClient, disk: DiskStorage, content: bytes, **headers: str) -> int:
    permit = disk.presign_put("uploads/one", content_type="image/png", size=10, seconds=60)
    return (await http.put(permit.url, headers={**permit.headers, **headers}, content=content)).status_code


async def test_upload_must_match_signed_type_and_size(disk: DiskStorage, http: httpx.AsyncClient) -> None:
    assert await upload(http, disk, b"x" * 10, **{"content-type": "text/html"}) == 400
    assert await upload(http, disk, b"x" * 9) == 413
    assert await upload(http, disk, b"x" * 11) == 413
    assert await disk.head("uploads/one") is None
    assert await upload(http, disk, b"x" * 10) == 200


async def test_chunked_upload_is_counted_while_streaming(disk: DiskStorage, http: httpx.AsyncClient, tmp_path: Path) -> None:
    permit = disk.presign_put("uploads/one", content_type="image/png", size=100_000, seconds=60)
    for length in (99_999, 100_001, 5_000_000):
        answer = await http.put(permit.url, headers=dict(permit.headers), content=split_chunks(b"x" * length))
        assert answer.status_code == 413 and "exactly 100,000 bytes" in answer.text
    assert await disk.head("uploads/one") is None
    assert list_files(tmp_path) == []
    assert (await http.put(permit.url, headers=dict(permit.headers), content=split_chunks(b"x" * 100_000))).status_code == 200


async def test_presigned_url_allows_only_its_request(disk: DiskStorage, http: httpx.AsyncClient) -> None:
    await disk.put("exports/one", b"secret", "text/csv")
    url = disk.presign_get("exports/one", seconds=60)
    parts = urlsplit(url)
    signature = parse_qs(parts.query)["signature"][0]
    expires = parse_qs(parts.query)["expires"][0]
    others = [
        url.replace("exports/one", "exports/two"),
        url.replace("exports/one", "exports/x%2f..%2fone"),
        url.replace("exports/one", "..%2f..%2fsecret"),
        url.replace(f"expires={expires}", f"expires={int(expires) + 1}"),
        url.replace(signature, "0" * 64),
        url.replace(f"&signature={signature}", ""),
        url + "&filename=other",
    ]
    assert [(await http.get(other)).status_code for other in others] == [403] * 7
    assert (await http.put(url, content=b"x")).status_code == 403
    assert (await http.get(disk.presign_put("exports/one", content_type="text/csv", size=1, seconds=9).url)).status_code == 403
    assert (await http.get(url)).content == b"secret"


async def test_presigned_url_expires(disk: DiskStorage, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    permit = disk.presign_put("uploads/one", content_type="text/csv", size=1, seconds=60)
    now = time()
    monkeypatch.setattr("storefront.core.storage.disk.time.time", lambda: now + 61)
    assert (await http.put(permit.url, headers=dict(permit.headers), content=b"x")).status_code == 403


async def test_downloads_have_safe_headers(disk: DiskStorage, http: httpx.AsyncClient) -> None:
    await disk.put("exports/page.html", b"<script>alert(1)</script>", "text/html")
    headers = (await http.get(disk.presign_get("exports/page.html", seconds=60))).headers
    assert headers["x-content-type-options"] == "nosniff" and "sandbox" in headers["content-security-policy"]
    assert headers["content-disposition"].startswith("attachment") and headers["cache-control"] == "private, no-store"


async def test_download_supports_range_requests(disk: DiskStorage, http: httpx.AsyncClient) -> None:
    await disk.put("exports/one", CSV, "text/csv")
    url = disk.presign_get("exports/one", seconds=60)
    answer = await http.get(url, headers={"range": "bytes=1000-1999"})
    assert answer.status_code == 206 and answer.content == CSV[1_000:2_000]


async def test_presigned_url_allows_all_origins(disk: DiskStorage, http: httpx.AsyncClient) -> None:
    permit = disk.presign_put("uploads/one", content_type="text/csv", size=1, seconds=60)
    preflight = {
        "origin": "https://shop.example",
        "access-control-request-method": "PUT",
        "access-control-request-headers": "content-type",
    }
    answer = await http.options(permit.url, headers=preflight)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "*"
    assert (
        "PUT" in answer.headers["access-control-allow-methods"]
        and "content-type" in answer.headers["access-control-allow-headers"]
    )
    answer = await http.put(permit.url, headers={**permit.headers, "origin": "https://shop.example"}, content=b"x")
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_reader_of_replaced_object_reads_old_content(disk: DiskStorage) -> None:
    await disk.put("exports/one", b"a" * 600_000, "text/csv")
    async with disk.open("exports/one") as reading:
        first = await anext(reading.chunks)
        await disk.put("exports/one", b"b" * 600_000, "text/csv")
        rest = [chunk async for chunk in reading.chunks]
    assert set(b"".join([first, *rest])) == {ord("a")} and set(await read_object(disk, "exports/one", 600_000)) == {ord("b")}


@pytest.mark.parametrize("is_read", [True, False])
async def test_cancelled_callers_leave_no_open_file(disk: DiskStorage, tmp_path: Path, is_read: bool) -> None:
    await disk.put("a/b", b"x", "text/plain")
    # Cancelled after each number of turns of the loop, and once more while they clean up.
    for turns, more in itertools.product(range(12), range(4)):
        task = asyncio.create_task(read_object(disk, "a/b", 10) if is_read else disk.put("a/c", b"y" * 100, "text/plain"))
        for pause in (turns, more):
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    # Threads that have begun end their work.
    async with asyncio.timeout(10):
        while find_open_files(tmp_path) or list_files(tmp_path / "unfinished"):  # noqa: ASYNC110  threads tell nobody
            await asyncio.sleep(0.01)


def find_open_files(folder: Path) -> list[str]:
    targets: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(descriptor.readlink()))
    return [target for target in targets if target.startswith(str(folder))]


async def test_concurrent_writes_and_deletes_succeed(tmp_path: Path) -> None:
    disks = [DiskStorage(tmp_path, "http://localhost", "the same secret for every worker") for _ in range(4)]

    async def work(disk: DiskStorage, number: int) -> None:
        for turn in range(40):
            await disk.put(f"shared/{number}-{turn}", b"x", "text/csv")
            await disk.delete(f"shared/{number}-{turn}")

    await asyncio.gather(*(work(disk, number) for number, disk in enumerate(disks)))
    assert [stored async for stored in disks[0].list("shared/")] == []


async def test_presigned_url_is_valid_at_every_worker(tmp_path: Path) -> None:
    one, two = (DiskStorage(tmp_path, "http://localhost", secret) for secret in ("the same secret", "the same secret"))
    query = {name: values[0] for name, values in parse_qs(urlsplit(one.presign_get("a/b", seconds=60)).query).items()}
    assert two.verify_grant("GET", "a/b", query)
    assert DiskStorage(tmp_path, "http://localhost", "another secret").verify_grant("GET", "a/b", query) is None


# --------------------------------------------------------------------------------------------------------- buckets


def create_bucket(**values: str) -> S3Storage:
    options = {"endpoint": "https://s3.eu-central-1.amazonaws.com", "name": "shop", "region": "eu-central-1"}
    return S3Storage(Bucket(**{**options, "access_key_id": "AKIDEXAMPLE", "secret_access_key": "SECRET", **values}))  # type: ignore[arg-type]


def test_s3_put_signs_type_and_length() -> None:
    permit = create_bucket().presign_put("uploads/one", content_type="image/png", size=1_234, seconds=600)
    query = parse_qs(urlsplit(permit.url).query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host"] and query["X-Amz-Expires"] == ["600"]
    other = create_bucket().presign_put("uploads/one", content_type="image/png", size=1_235, seconds=600)
    assert parse_qs(urlsplit(other.url).query)["X-Amz-Signature"] != query["X-Amz-Signature"]
    assert dict(permit.headers) == {"content-type": "image/png"} and "SECRET" not in permit.url


def test_s3_addressing_styles() -> None:
    path = create_bucket().presign_get("a/b", seconds=60)
    virtual = create_bucket(addressing="virtual").presign_get("a/b", seconds=60)
    assert path.startswith("https://s3.eu-central-1.amazonaws.com/shop/a/b?")
    assert virtual.startswith("https://shop.s3.eu-central-1.amazonaws.com/a/b?")
    assert create_bucket().public_url("a/b") is None
    assert create_bucket(public_url="https://cdn.example/").public_url("a/b") == "https://cdn.example/a/b"


async def test_unreachable_service_raises_without_urls() -> None:
    away = create_bucket(endpoint=f"http://127.0.0.1:{free_port()}")
    async with away.running():
        with pytest.raises(StorageError, match=r"^GET of an object: ConnectError$"):
            await read_object(away, "a/b", 10)


async def test_cancelled_multipart_upload_is_aborted(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    is_sending, bucket = asyncio.Event(), f"{s3_server.endpoint}/cancelled"

    async def send_forever() -> AsyncIterator[bytes]:
        yield b"x" * (2 * PART + 1)
        is_sending.set()
        await asyncio.Event().wait()

    storage = s3_server.bucket("cancelled")
    async with storage.running(), httpx.AsyncClient() as client:
        upload = asyncio.create_task(storage.put("uploads/large", send_forever(), "text/csv"))
        await is_sending.wait()
        assert "<UploadId>" in (await client.get(f"{bucket}?uploads")).text
        # Cancelled once more while the upload is being aborted.
        upload.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        async with asyncio.timeout(10):
            while "<UploadId>" in (await client.get(f"{bucket}?uploads")).text:  # noqa: ASYNC110  it has no event for it
                await asyncio.sleep(0.02)


async def test_missing_bucket_raises(s3_server: S3Server) -> None:
    absent = S3Storage(Bucket(s3_server.endpoint, "no-such-bucket", "us-east-1", "key", "secret"))
    async with absent.running():
        with pytest.raises(StorageError, match="NoSuchBucket"):
            await absent.put("a/b", b"", "text/csv")


# -------------------------------------------------------------------------------------------------------- settings


def test_default_storage_is_the_data_folder(tmp_path: Path) -> None:
    found = create_object_storage(Settings(data_dir=tmp_path, port=9_000))
    assert isinstance(found, DiskStorage) and found.describe() == f"the folder {tmp_path}/objects"
    assert found.presign_get("a/b", seconds=60).startswith("http://127.0.0.1:9000/objects/a/b?")
    assert (
        create_object_storage(Settings(data_dir=tmp_path, public_url="https://api.example/"))
        .presign_get("a/b", seconds=9)
        .startswith("https://api.example/objects/a/b?")
    )


def test_factory_configures_aws_and_other_services(tmp_path: Path) -> None:
    keys = {"s3_bucket": "shop", "s3_access_key_id": "id", "s3_secret_access_key": "secret"}
    aws = create_object_storage(Settings(data_dir=tmp_path, **keys))  # type: ignore[arg-type]
    assert aws.presign_get("a/b", seconds=60).startswith("https://shop.s3.us-east-1.amazonaws.com/a/b?")
    minio = create_object_storage(Settings(data_dir=tmp_path, **keys, s3_endpoint="http://minio:9000"))  # type: ignore[arg-type]
    assert minio.presign_get("a/b", seconds=60).startswith("http://minio:9000/shop/a/b?")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"s3_bucket": "shop"}, "STOREFRONT_S3_ACCESS_KEY_ID"),
        ({"s3_endpoint": "minio:9000"}, "must be an http"),
        ({"s3_endpoint": "http://minio:9000/shop"}, "set the bucket in STOREFRONT_S3_BUCKET"),
        ({"public_url": "https://user@api.example"}, "without"),
    ],
)
def test_invalid_storage_settings_are_rejected(options: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Settings(**options)  # type: ignore[arg-type]


def test_bucket_secret_is_redacted() -> None:
    options = Settings(s3_bucket="shop", s3_access_key_id="id", s3_secret_access_key=SecretStr("a very secret word"))
    assert "a very secret word" in options.list_secret_values()
    assert "a very secret word" not in json.dumps(options.model_dump(mode="json", exclude_none=True), default=str)


async def test_doctor_probes_storage(tmp_path: Path, s3_server: S3Server) -> None:
    found = await doctor.check_storage(Settings(data_dir=tmp_path, host="::"))
    assert str(tmp_path) in found.state and "STOREFRONT_PUBLIC_URL" in found.remedy
    assert list_files(tmp_path / "objects") == []
    options = s3_server.settings(f"bucket-{uuid7().hex}")
    found = await doctor.check_storage(Settings(data_dir=tmp_path, **options))
    assert options["s3_bucket"] in found.state and not found.remedy
    found = await doctor.check_storage(Settings(data_dir=tmp_path, **{**options, "s3_bucket": "none-such"}))
    assert "NoSuchBucket" in found.state and "STOREFRONT_S3_" in found.remedy
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "objects").write_text("a file")
    found = await doctor.check_storage(Settings(data_dir=tmp_path / "other"))
    assert "Not a directory" in found.state and "STOREFRONT_DATA_DIR" in found.remedy


async def test_doctor_checks_bucket_cors(tmp_path: Path, s3_server: S3Server) -> None:
    name = f"bucket-{uuid7().hex}"
    options = Settings(data_dir=tmp_path, allowed_origins="https://admin.example", **s3_server.settings(name))
    assert "https://admin.example" in (await doctor.check_storage(options)).remedy
    s3_server.let_in(name, "https://other.example")
    assert "https://admin.example" in (await doctor.check_storage(options)).remedy
    s3_server.let_in(name, "https://admin.example")
    assert (await doctor.check_storage(options)).remedy == ""


async def test_concurrent_uploads_are_limited(
    disk: DiskStorage, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storefront.serving.http.storage_endpoint.MAX_CONCURRENT_UPLOADS", 2)
    end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await end.wait()
        yield b"x"

    permits = [disk.presign_put(f"uploads/{n}", content_type="text/csv", size=2, seconds=60) for n in range(3)]
    sending = [asyncio.create_task(http.put(one.url, headers=dict(one.headers), content=slow())) for one in permits[:2]]
    await asyncio.sleep(0.3)
    answer = await http.put(permits[2].url, headers=dict(permits[2].headers), content=b"xx")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    end.set()
    assert [(await task).status_code for task in sending] == [200, 200]
    assert (await http.put(permits[2].url, headers=dict(permits[2].headers), content=b"xx")).status_code == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


async def test_full_disk_rejects_upload_without_remains(small_disk: Path) -> None:
    disk = DiskStorage(small_disk, "http://shop.example", "secret")
    await disk.put("files/small", b"x" * 1_000, "text/plain")
    with pytest.raises(StorageFullError):
        await disk.put("files/large", b"x" * 3_000_000, "text/plain")
    assert [stored.key async for stored in disk.list("files/")] == ["files/small"]
    assert [path.name for path in (small_disk / "unfinished").iterdir()] == []
    app = Starlette(routes=create_storage_routes(disk))
    permit = disk.presign_put("files/upload", content_type="text/plain", size=3_000_000, seconds=60)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.example") as http:
        answer = await http.put(permit.url, content=b"x" * 3_000_000, headers=dict(permit.headers))
    assert answer.status_code == 507 and "storage is full" in answer.text
    await disk.put("files/after", b"x" * 1_000, "text/plain")
