"""Garbage collection of uploads and images: what is deleted and retained, concurrency, and crash safety."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.core.settings import Settings
from storefront.core.storage.base import ObjectStorage, StorageError
from storefront.media import garbage_collection
from storefront.media.garbage_collection import sweep_images, sweep_orphaned_objects
from tests.factories import make_product
from tests.media.flow import REMOVE, Merchant, external_id
from tests.pictures import picture

UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
DELETE = "mutation($input: DeleteProductInput!) { deleteProduct(input: $input) { userErrors { message } } }"
CALL = "mutation($input: UpdateImageInput!) { updateImage(input: $input) { userErrors { message } product { id } } }"
DELETE_STORE = "mutation($input: DeleteConfigInput!) { deleteConfig(input: $input) { userErrors { message } } }"


async def list_keys(objects: ObjectStorage, id_: str) -> list[str]:
    return [stored.key for prefix in ("uploads/", "media/") async for stored in objects.list(prefix) if id_ in stored.key]


async def age_rows(database: Database, hours: float) -> None:
    """Age all uploads and images by so many hours."""
    async with database.transaction() as connection:
        for table, columns in (("image_uploads", ("expires_at",)), ("images", ("detached_at", "swept_at"))):
            moved = ", ".join(f"{column} = {column} - interval '{hours} hours'" for column in columns)
            await connection.raw.execute(f"UPDATE {table} SET {moved}")


async def fetch_rows(database: Database, table: str, id_: str) -> list[Any]:
    async with database.transaction() as connection:
        found = await connection.raw.execute(f"SELECT * FROM {table} WHERE id = %s", [id_])
        return await found.fetchall()


async def sweep_after(merchant: Merchant, objects: ObjectStorage, *, hours: float = 25) -> None:
    """Age everything by so many hours, and sweep until nothing is left."""
    database = merchant.client.database
    await age_rows(database, hours)
    await sweep_images(database, objects)
    await age_rows(database, 1)
    await sweep_images(database, objects)


async def test_unconfirmed_upload_is_deleted(merchant: Merchant, objects: ObjectStorage) -> None:
    upload_id, database = await merchant.upload(picture()), merchant.client.database
    await sweep_images(database, objects)
    await age_rows(database, 2)
    await sweep_images(database, objects)
    assert await list_keys(objects, upload_id) == [f"uploads/images/{upload_id}"]
    await age_rows(database, 0.5)
    assert await sweep_images(database, objects) >= 1
    assert await list_keys(objects, upload_id) == [] == await fetch_rows(database, "image_uploads", upload_id)


async def test_attached_image_is_retained(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(picture())
    await sweep_after(merchant, objects, hours=10_000)
    assert len(await list_keys(objects, image["id"])) == 1 and (await merchant.http.get(image["url"])).status_code == 200
    assert await fetch_rows(merchant.client.database, "image_uploads", image["id"]) == []
    # A repeated confirmation finds it without its upload.
    assert (await merchant.confirm(image["id"]))["image"] == image


@pytest.mark.parametrize("how", ["removed", "written over", "product deleted", "store deleted"])
async def test_detached_image_is_deleted_after_a_day(merchant: Merchant, objects: ObjectStorage, how: str) -> None:
    image, database = await merchant.add_image(picture()), merchant.client.database
    assert (await merchant.http.get(image["small"])).status_code == 200
    await {
        "removed": lambda: merchant.client.ask(REMOVE, input={"id": image["id"]}),
        "written over": lambda: merchant.client.ask(UPDATE, input={"id": merchant.product, "images": []}),
        "product deleted": lambda: merchant.client.ask(DELETE, input={"id": merchant.product}),
        "store deleted": lambda: merchant.client.ask(DELETE_STORE, input={"id": merchant.store}),
    }[how]()
    await sweep_after(merchant, objects, hours=22)
    assert len(await list_keys(objects, image["id"])) == 2
    await sweep_after(merchant, objects, hours=3)
    assert await list_keys(objects, image["id"]) == [] == await fetch_rows(database, "images", image["id"])
    assert (await merchant.http.get(image["url"])).status_code == 404


async def test_reattached_image_is_retained(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(picture())
    await merchant.client.ask(REMOVE, input={"id": image["id"]})
    await age_rows(merchant.client.database, 23)
    await merchant.client.ask(UPDATE, input={"id": merchant.product, "images": [image["url"]]})
    await sweep_after(merchant, objects)
    assert len(await list_keys(objects, image["id"])) == 1
    assert (await merchant.load_product())["gallery"][0]["id"] == image["id"]


async def test_image_of_another_product_is_retained(merchant: Merchant, objects: ObjectStorage) -> None:
    image, database = await merchant.add_image(picture()), merchant.client.database
    other = await make_product(database, merchant.store, images=[image["url"]])
    await merchant.client.ask(DELETE, input={"id": merchant.product})
    await sweep_after(merchant, objects)
    assert len(await list_keys(objects, image["id"])) == 1
    removed = await merchant.client.ask(REMOVE, input={"id": image["id"]})
    assert removed["removeImage"]["product"]["id"] == other
    await sweep_after(merchant, objects)
    assert await list_keys(objects, image["id"]) == []


async def test_detached_image_can_be_attached_again(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(picture(), alt="A mug")
    await merchant.client.ask(REMOVE, input={"id": image["id"]})
    create = """mutation($input: CreateProductInput!) { createProduct(input: $input) { userErrors { message }
      product { id gallery { id alt } } } }"""
    given = {"configId": merchant.store, "title": "Another mug", "price": "1.00", "images": [image["url"]]}
    product = (await merchant.client.ask(create, input=given))["createProduct"]["product"]
    assert product["gallery"] == [{"id": image["id"], "alt": "A mug"}]
    await sweep_after(merchant, objects)
    assert len(await list_keys(objects, image["id"])) == 1
    updated = (await merchant.client.ask(CALL, input={"id": image["id"], "alt": "Mine"}))["updateImage"]
    assert updated["userErrors"] == [] and updated["product"]["id"] == product["id"]


async def test_marked_image_is_not_served(merchant: Merchant, objects: ObjectStorage) -> None:
    image, database = await merchant.add_image(picture()), merchant.client.database
    await merchant.client.ask(REMOVE, input={"id": image["id"]})
    await age_rows(database, 25)
    await sweep_images(database, objects)
    # Not deleted yet: a concurrent request may still render a size of it.
    assert len(await list_keys(objects, image["id"])) == 1
    assert (await merchant.http.get(image["small"])).status_code == 404
    await merchant.client.ask(UPDATE, input={"id": merchant.product, "images": [image["url"]]})
    assert (await merchant.load_product())["gallery"][0]["id"] == external_id(image["url"])


@pytest.mark.parametrize("step", range(4))
async def test_sweep_resumes_after_failure(
    merchant: Merchant, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    gone, waiting = await merchant.add_image(picture()), await merchant.upload(picture())
    stays, database = await merchant.add_image(picture()), merchant.client.database
    await merchant.http.get(gone["small"])
    await merchant.client.ask(REMOVE, input={"id": gone["id"]})
    left = step

    class FailingStorage:
        """The storage, which fails after so many deletions."""

        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        async def delete(self, key: str) -> None:
            nonlocal left
            if left == 0:
                raise StorageError("DELETE of an object: ConnectError")
            left -= 1
            await objects.delete(key)

    failing_storage: Any = FailingStorage()

    async def sweep_twice() -> None:
        await sweep_images(database, failing_storage)
        await age_rows(database, 1)
        await sweep_images(database, failing_storage)

    await age_rows(database, 25)
    for _ in range(2):
        with pytest.raises(StorageError):
            await sweep_twice()
    assert (await merchant.http.get(stays["url"])).status_code == 200
    await sweep_after(merchant, objects)
    assert await list_keys(objects, gone["id"]) == [] == await list_keys(objects, waiting)
    assert len(await list_keys(objects, stays["id"])) == 1


async def test_leftovers_of_failed_confirmation_are_deleted(
    merchant: Merchant, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await merchant.upload(picture())

    async def crash(*_: object, **__: object) -> None:
        raise ArithmeticError("the process was killed here")

    monkeypatch.setattr("storefront.media.mutations.mutate", crash)
    refusal = await merchant.client.post(
        "mutation($input: ConfirmImageUploadInput!) { confirmImageUpload(input: $input) { position } }",
        input={"uploadId": upload_id, "productId": merchant.product},
    )
    assert refusal.json()["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    monkeypatch.undo()
    assert len(await list_keys(objects, upload_id)) == 2
    image = (await merchant.confirm(upload_id))["image"]
    assert len(await list_keys(objects, upload_id)) == 2
    await sweep_after(merchant, objects)
    assert len(await list_keys(objects, upload_id)) == 1 and (await merchant.http.get(image["url"])).status_code == 200


async def test_sweep_images_works_in_batches(merchant: Merchant, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_collection, "MAX_BATCH_ROWS", 2)
    database = merchant.client.database
    images = [await merchant.add_image(picture()) for _ in range(3)]
    uploads = [await merchant.upload(picture()) for _ in range(3)]
    for image in images:
        await merchant.client.ask(REMOVE, input={"id": image["id"]})
    batch_sizes: list[int] = []

    class RecordingDatabase:
        """The database, which records how many rows each statement returns."""

        async def fetch(self, *arguments: Any) -> list[Any]:
            fetched = await database.fetch(*arguments)
            batch_sizes.append(len(fetched))
            return fetched

    recording_database: Any = RecordingDatabase()
    for hours in (25, 1):
        await age_rows(database, hours)
        await sweep_images(recording_database, objects)
    # Three of each kind are at least two batches; `images` are marked first, and removed by the second sweep.
    assert max(batch_sizes) == 2 and batch_sizes.count(2) >= 3
    assert [await list_keys(objects, id_) for id_ in (*uploads, *(image["id"] for image in images))] == [[]] * 6


async def test_concurrent_sweeps_and_confirmations(
    merchant: Merchant, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage_collection, "MAX_BATCH_ROWS", 3)
    database = merchant.client.database
    uploads = [await merchant.upload(picture(size=(40, 30))) for _ in range(12)]
    async with database.transaction() as connection:
        # Some are expired for the sweep, the others can just be confirmed.
        for number, upload_id in enumerate(uploads):
            moved = "UPDATE image_uploads SET expires_at = now() - make_interval(mins => %s) WHERE id = %s"
            await connection.raw.execute(moved, [59 if number % 2 else 121, upload_id])
    confirming = asyncio.gather(*(merchant.confirm(upload_id) for upload_id in uploads))
    await asyncio.gather(*(sweep_images(database, objects) for _ in range(3)))
    confirmed = await confirming
    assert [one["image"] is not None for one in confirmed] == [number % 2 == 1 for number in range(12)]
    await sweep_after(merchant, objects)
    for upload_id, one in zip(uploads, confirmed, strict=True):
        assert len(await list_keys(objects, upload_id)) == (1 if one["image"] else 0)
    assert len((await merchant.load_product())["images"]) == 7


async def test_orphaned_objects_are_deleted(merchant: Merchant, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_collection, "MAX_LOOKUP_KEYS", 3)
    image, waiting, database = await merchant.add_image(picture()), await merchant.upload(picture()), merchant.client.database
    assert (await merchant.http.get(image["small"])).status_code == 200
    strays = [f"media/{uuid7()}-0123456789abcdef/full.jpg", f"uploads/images/{uuid7()}"]
    for key in strays:
        await objects.put(key, b"x", "image/jpeg")
    assert await sweep_orphaned_objects(database, objects) == 0

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Tomorrow":
            return cls.fromtimestamp(datetime.now(tz).timestamp() + 90_000, tz)

    monkeypatch.setattr(garbage_collection, "datetime", Tomorrow)
    assert await sweep_orphaned_objects(database, objects) == 2
    assert [await objects.head(key) for key in strays] == [None, None]
    assert len(await list_keys(objects, image["id"])) == 2 and len(await list_keys(objects, waiting)) == 1


def test_sweep_images_command(empty_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Settings(database_url=empty_url, data_dir=tmp_path)
    monkeypatch.setattr("storefront.cli.support.get_settings", lambda: options)
    result = CliRunner().invoke(app, ["sweep-images", "--strays"])
    assert result.exit_code == 0 and "Removed 0 images, uploads and strays." in result.output
