"""Image uploads over real sockets, to disk storage and to an S3 bucket."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from storefront.core.ids import uuid7
from storefront.core.storage.base import ObjectStorage
from tests.client import Client
from tests.factories import count_statements, make_product, make_store
from tests.media.flow import CONFIRM, CREATE, REMOVE, SHOWN, UPDATE, Merchant, external_id, make_merchant
from tests.pictures import frames, half_animated_gif, huge_png, located, noise, opened, picture, scripted_png

ELSEWHERE = "https://elsewhere.example/mug.jpg"


async def keys(objects: ObjectStorage, *parts: str) -> list[str]:
    """The keys in the object storage that contain one of the parts."""
    found = [stored.key for prefix in ("uploads/", "media/") async for stored in objects.list(prefix)]
    return [key for key in found if any(part in key for part in parts)]


# ------------------------------------------------------------------------------------------------------- as it should


async def test_uploaded_image_is_attached_to_product(merchant: Merchant, objects: ObjectStorage) -> None:
    content = picture(size=(900, 600))
    created = await merchant.create_upload(content, fileName="Töpfe.jpg")
    upload = created["upload"]
    assert created["userErrors"] == [] and upload["method"] == "PUT"
    left = datetime.fromisoformat(upload["expiresAt"]) - datetime.now(UTC)
    assert 880 < left.total_seconds() <= 900
    assert (await merchant.send_file(upload, content)).status_code == 200
    confirmed = await merchant.confirm(upload["id"], alt="  A mug ")
    image = confirmed["image"]
    assert confirmed["userErrors"] == [] and int(confirmed["position"]) == 1
    assert (image["id"], image["width"], image["height"], image["alt"], image["version"]) == (upload["id"], 900, 600, "A mug", 1)
    assert image["placeholder"].startswith("data:image/webp;base64,")
    product = await merchant.load_product()
    assert product["images"] == [ELSEWHERE, image["url"]] and product["version"] == 2
    assert product["gallery"][1] == image == confirmed["product"]["gallery"][1]
    assert [key.rpartition("/")[2] for key in await keys(objects, upload["id"])] == ["full.jpg"]
    shown = await merchant.http.get(image["url"])
    assert opened(shown.content).size == (900, 600) and shown.headers["content-type"] == "image/jpeg"


async def test_external_image_url_is_unchanged(merchant: Merchant) -> None:
    (image,) = (await merchant.load_product())["gallery"]
    assert image.pop("url") == image.pop("small") == ELSEWHERE
    assert image.pop("id") and set(image.values()) == {None}


@pytest.mark.parametrize(
    ("content_type", "called", "ending"),
    [("image/png", "PNG", "png"), ("image/webp", "WEBP", "webp"), ("image/avif", "AVIF", "avif"), ("image/gif", "GIF", "png")],
)
async def test_image_formats_are_converted(merchant: Merchant, content_type: str, called: str, ending: str) -> None:
    image = await merchant.add_image(picture(called), content_type)
    assert image["url"].endswith(f"/full.{ending}") and (image["width"], image["height"]) == (600, 400)


async def test_image_metadata_is_stripped(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(located())
    assert (image["width"], image["height"]) == (400, 600)
    for url in (image["url"], image["small"]):
        found = (await merchant.http.get(url)).content
        assert dict(opened(found).getexif()) == {} and b"camera" not in found
    for key in await keys(objects, image["id"]):
        async with objects.open(key) as reading:
            assert b"camera" not in b"".join([chunk async for chunk in reading.chunks])


async def test_image_is_inserted_at_index(merchant: Merchant) -> None:
    first = await merchant.add_image(picture(), index=0)
    second = await merchant.add_image(picture(), index=1)
    third = await merchant.add_image(picture(), index=99)
    assert (await merchant.load_product())["images"] == [first["url"], second["url"], ELSEWHERE, third["url"]]


async def test_image_change_is_logged_and_streamed(merchant: Merchant) -> None:
    image = await merchant.add_image(picture())
    asked = """query($id: ID!) { productChanges(configId: $id, after: "0") { changes { __typename
      ... on ProductUpdated { position product { gallery { id } } } } } }"""
    (event,) = (await merchant.client.ask(asked, id=merchant.store))["productChanges"]["changes"]
    assert event["__typename"] == "ProductUpdated" and event["product"]["gallery"] == [
        {"id": external_id(ELSEWHERE)},
        {"id": image["id"]},
    ]


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "path", "received"),
    [
        ({"contentType": "image/svg+xml"}, "contentType", "must be one of image/jpeg"),
        ({"contentType": "text/html"}, "contentType", "must be one of image/jpeg"),
        ({"size": 0}, "size", "between 1 and 1,000,000"),
        ({"size": 1_000_001}, "size", "between 1 and 1,000,000"),
        ({"fileName": "a\0b"}, "fileName", "control characters"),
        ({"configId": "none"}, "configId", "id"),
    ],
)
async def test_invalid_upload_request_is_rejected(merchant: Merchant, given: dict[str, Any], path: str, received: str) -> None:
    created = await merchant.create_upload(b"x", **given)
    (error,) = created["userErrors"]
    assert created["upload"] is None and error["path"] == [path] and received in error["message"]


REFUSED = {
    "a page": ("image/png", b"<!DOCTYPE html><html><script>alert(1)</script></html>", "script"),
    "a script": ("image/png", b"fetch('//evil.example')", "not an image"),
    "a PNG that is a page too": ("image/png", scripted_png(), "script"),
    "a drawing": ("image/png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "markup"),
    "another type": ("image/png", picture("JPEG"), "is JPEG, not image/png"),
    "half of it": ("image/jpeg", picture(quality=95)[:-500], "broken"),
    "too many pixels": ("image/png", huge_png(), "50,000 x 50,000 pixels"),
    "half an animation": ("image/gif", half_animated_gif(), "animation"),
    "half an animated PNG": ("image/png", frames("PNG")[:-300], "animation"),
    "half an animated WebP": ("image/webp", frames("WEBP")[:-300], "not an image"),
    "half a WebP": ("image/webp", noise("WEBP")[:-100], "not an image"),
    "half an AVIF": ("image/avif", noise("AVIF")[:-100], "broken"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_unusable_upload_is_deleted(merchant: Merchant, objects: ObjectStorage, name: str) -> None:
    content_type, content, received = REFUSED[name]
    upload_id = await merchant.upload(content, content_type)
    assert await keys(objects, upload_id) == [f"uploads/images/{upload_id}"]
    confirmed = await merchant.confirm(upload_id)
    (error,) = confirmed["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID_INPUT", ["uploadId"]) and received in error["message"]
    assert confirmed["product"] is None and confirmed["position"] is None
    assert await keys(objects, upload_id) == []
    product = await merchant.load_product()
    assert product["images"] == [ELSEWHERE] and product["version"] == 1


async def test_upload_of_wrong_size_is_rejected(merchant: Merchant, objects: ObjectStorage, kind: str) -> None:
    content = picture()
    for sent in (content + b"\0", content[:-1]):
        upload = (await merchant.create_upload(content))["upload"]
        answer = await merchant.send_file(upload, sent)
        # The disk storage rejects it, and so does S3; the S3 server of the tests checks no signatures.
        assert answer.status_code == (413 if kind == "on_disk" else 200)
        confirmed = await merchant.confirm(upload["id"])
        assert confirmed["image"] is None and len(confirmed["userErrors"]) == 1
        assert await keys(objects, upload["id"]) == []
    assert (await merchant.load_product())["images"] == [ELSEWHERE]


async def test_compressed_upload_is_rejected(merchant: Merchant, kind: str) -> None:
    upload = (await merchant.create_upload(picture()))["upload"]
    if kind != "on_disk":
        pytest.skip("the bucket's own service answers")
    headers = {header["name"]: header["value"] for header in upload["headers"]} | {"content-encoding": "gzip"}
    answer = await merchant.http.put(upload["url"], content=picture(), headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")


async def test_confirmation_before_upload_can_be_retried(merchant: Merchant) -> None:
    content = picture()
    upload = (await merchant.create_upload(content))["upload"]
    (error,) = (await merchant.confirm(upload["id"]))["userErrors"]
    assert "was not found" in error["message"]
    await merchant.send_file(upload, content)
    assert (await merchant.confirm(upload["id"]))["userErrors"] == []


async def test_rejected_upload_can_be_sent_again(merchant: Merchant) -> None:
    content = picture()
    upload = (await merchant.create_upload(content))["upload"]
    await merchant.send_file(upload, bytes(len(content)))
    assert len((await merchant.confirm(upload["id"]))["userErrors"]) == 1
    await merchant.send_file(upload, content)
    assert (await merchant.confirm(upload["id"]))["userErrors"] == []


async def test_invalid_confirmation_keeps_upload(merchant: Merchant, objects: ObjectStorage) -> None:
    upload_id = await merchant.upload(picture())
    for given, path in (({"alt": "x" * 513}, "alt"), ({"index": -1}, "index"), ({"productId": str(uuid7())}, "productId")):
        (error,) = (await merchant.confirm(upload_id, **given))["userErrors"]
        assert error["path"] == [path]
    assert await keys(objects, upload_id) == [f"uploads/images/{upload_id}"]
    assert (await merchant.confirm(upload_id))["userErrors"] == []


async def test_upload_of_another_store_is_rejected(merchant: Merchant) -> None:
    other = await make_product(merchant.client.database, await make_store(merchant.client.database, user_id=merchant.user))
    (error,) = (await merchant.confirm(await merchant.upload(picture()), productId=other))["userErrors"]
    assert error["path"] == ["productId"] and "another store" in error["message"]


async def test_images_per_product_are_limited(merchant: Merchant) -> None:
    async with merchant.client.database.transaction() as connection:
        await connection.raw.execute(
            "UPDATE products SET images = (SELECT jsonb_agg('https://a.example/' || n) FROM generate_series(1, 250) AS n)"
            " WHERE id = %s",
            [merchant.product],
        )
    (error,) = (await merchant.confirm(await merchant.upload(picture())))["userErrors"]
    assert "250 images" in error["message"]


async def test_pending_uploads_per_store_are_limited(merchant: Merchant) -> None:
    async with merchant.client.database.transaction() as connection:
        await connection.raw.execute(
            "INSERT INTO image_uploads (id, config_id, content_type, size, expires_at)"
            " SELECT gen_random_uuid(), %s, 'image/png', 1, now() FROM generate_series(1, 250)",
            [merchant.store],
        )
    (error,) = (await merchant.create_upload(picture()))["userErrors"]
    assert error["path"] == ["configId"] and "250" in error["message"]
    async with merchant.client.database.transaction() as connection:
        # Expired uploads do not count.
        await connection.raw.execute("UPDATE image_uploads SET expires_at = now() - interval '61 minutes'")
    assert (await merchant.create_upload(picture()))["userErrors"] == []


# ------------------------------------------------------------------------------------------------- whose it is


async def test_other_users_cannot_write_images(
    merchant: Merchant, shop: tuple[Client, ObjectStorage], http: httpx.AsyncClient
) -> None:
    other = await make_merchant(shop[0], http)
    upload_id, image = await merchant.upload(picture()), await merchant.add_image(picture())
    (error,) = (await other.confirm(upload_id))["userErrors"]
    assert error["code"] == "NOT_FOUND" and error["path"] == ["uploadId"]
    asked = {"uploadId": upload_id, "productId": merchant.product}
    refusals = [
        await other.client.refusal(CREATE, input={"configId": merchant.store, "contentType": "image/png", "size": 1}),
        await other.client.refusal(CONFIRM, input=asked),
        await other.client.refusal(UPDATE, input={"id": image["id"], "alt": "Mine"}),
        await other.client.refusal(REMOVE, input={"id": image["id"]}),
    ]
    assert {refusal["extensions"]["code"] for refusal in refusals} == {"FORBIDDEN"}
    assert (await shop[0].refusal(CONFIRM, input=asked))["extensions"]["code"] == "UNAUTHENTICATED"
    assert (await merchant.load_product())["gallery"][1] == image
    assert (await merchant.confirm(upload_id))["userErrors"] == []


async def test_image_of_another_store_is_external(
    merchant: Merchant, shop: tuple[Client, ObjectStorage], http: httpx.AsyncClient
) -> None:
    image = await merchant.add_image(picture(), alt="A secret word")
    other = await make_merchant(shop[0], http)
    update = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
    await other.client.ask(update, input={"id": other.product, "images": [image["url"]]})
    (seen,) = (await other.load_product())["gallery"]
    assert seen["url"] == image["url"] and seen["id"] == external_id(image["url"]) and seen["alt"] is None


# ------------------------------------------------------------------------------------------------- again, and at once


async def test_confirmation_is_idempotent(merchant: Merchant, objects: ObjectStorage) -> None:
    upload_id = await merchant.upload(picture())
    first = await merchant.confirm(upload_id)
    again = await merchant.confirm(upload_id)
    assert again["image"] == first["image"] and again["product"] == first["product"] and again["position"] is None
    other = await make_product(merchant.client.database, merchant.store)
    (error,) = (await merchant.confirm(upload_id, productId=other))["userErrors"]
    assert "another product" in error["message"]
    assert len(await keys(objects, upload_id)) == 1


async def test_idempotency_key_replays_first_result(merchant: Merchant) -> None:
    upload_id, key = await merchant.upload(picture()), uuid7().hex
    first = await merchant.confirm(upload_id, idempotencyKey=key)
    again = await merchant.confirm(upload_id, idempotencyKey=key)
    assert again == {**first, "replayed": True}
    created = [await merchant.create_upload(picture(), idempotencyKey=f"{key}-2") for _ in range(2)]
    assert created[0]["upload"]["id"] == created[1]["upload"]["id"]


async def test_concurrent_confirmations_create_one_image(merchant: Merchant, objects: ObjectStorage) -> None:
    upload_id = await merchant.upload(picture())
    confirmed = await asyncio.gather(*(merchant.confirm(upload_id) for _ in range(5)))
    assert [one["userErrors"] for one in confirmed] == [[]] * 5
    assert len({one["image"]["url"] for one in confirmed}) == 1
    assert sum(one["position"] is not None for one in confirmed) == 1
    assert len((await merchant.load_product())["images"]) == 2
    assert len(await keys(objects, upload_id)) == 1


async def test_upload_after_confirmation_changes_nothing(merchant: Merchant) -> None:
    content = picture()
    upload = (await merchant.create_upload(content))["upload"]
    await merchant.send_file(upload, content)
    image = (await merchant.confirm(upload["id"]))["image"]
    before = (await merchant.http.get(image["url"])).content
    assert (await merchant.send_file(upload, bytes(len(content)))).status_code == 200
    assert (await merchant.http.get(image["url"])).content == before
    assert (await merchant.confirm(upload["id"]))["image"] == image


async def test_upload_expires(merchant: Merchant) -> None:
    upload_id = await merchant.upload(picture())
    async with merchant.client.database.transaction() as connection:
        statement = "UPDATE image_uploads SET expires_at = now() - interval '61 minutes' WHERE id = %s"
        await connection.raw.execute(statement, [upload_id])
    (error,) = (await merchant.confirm(upload_id))["userErrors"]
    assert error["code"] == "NOT_FOUND"


# ----------------------------------------------------------------------------------------------- later on


async def test_update_image_sets_alt_and_index(merchant: Merchant) -> None:
    one, two = await merchant.add_image(picture()), await merchant.add_image(picture())
    updated = (await merchant.client.ask(UPDATE, input={"id": two["id"], "alt": "Two", "index": 0}))["updateImage"]
    assert updated["userErrors"] == [] and updated["position"] is not None
    assert updated["product"]["images"] == [two["url"], ELSEWHERE, one["url"]]
    assert updated["image"]["alt"] == "Two" and updated["image"]["version"] == 2
    assert (await merchant.load_product())["gallery"][0]["alt"] == "Two"
    same = (await merchant.client.ask(UPDATE, input={"id": two["id"], "alt": "Two", "index": 0}))["updateImage"]
    assert same["position"] is None and same["image"]["version"] == 2
    stale = (await merchant.client.ask(UPDATE, input={"id": two["id"], "alt": None, "expectedVersion": 1}))["updateImage"]
    assert stale["userErrors"][0]["code"] == "STALE_VERSION"
    cleared = (await merchant.client.ask(UPDATE, input={"id": two["id"], "alt": None, "expectedVersion": 2}))["updateImage"]
    assert cleared["image"]["alt"] is None


async def test_remove_image_detaches_it(merchant: Merchant) -> None:
    one, two = await merchant.add_image(picture()), await merchant.add_image(picture())
    removed = (await merchant.client.ask(REMOVE, input={"id": one["id"]}))["removeImage"]
    assert removed["userErrors"] == [] and removed["position"] is not None and removed["image"] == {"id": one["id"]}
    assert removed["product"]["images"] == [ELSEWHERE, two["url"]]
    (error,) = (await merchant.client.ask(REMOVE, input={"id": one["id"]}))["removeImage"]["userErrors"]
    assert error["code"] == "NOT_FOUND"


async def test_images_of_products_load_in_one_statement(merchant: Merchant) -> None:
    image = await merchant.add_image(picture())
    database = merchant.client.database
    for _ in range(5):
        await make_product(database, merchant.store, images=[image["url"]])
    listed = "query($id: ID!) { products(configId: $id) { nodes { id gallery { id url(width: 64) } } } }"
    with count_statements(database) as seen:
        found = (await merchant.client.ask(listed, id=merchant.store))["products"]["nodes"]
    assert sum(image["id"] in (one["id"] for one in product["gallery"]) for product in found) == 6
    assert len([statement for statement in seen if "FROM images" in statement]) == 1
    with count_statements(database) as alone:
        await merchant.client.ask(SHOWN, id=merchant.product)
    assert len(alone) == len(seen)
