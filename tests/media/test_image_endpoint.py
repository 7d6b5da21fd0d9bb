"""The image endpoint: available sizes, rendering on demand, immutable URLs, CORS, and storage failures."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from storefront.core import image_processing
from storefront.core.ids import uuid7
from storefront.core.storage.base import ObjectStorage
from storefront.queries.images import RENDITION_WIDTHS, ProductImage, build_resized_address, parse_rendition_name
from tests.conftest import fresh, serving
from tests.media.flow import REMOVE, Merchant, make_merchant
from tests.pictures import opened, picture
from tests.ports import free_port
from tests.s3 import S3Server

LONG = "public, max-age=31536000, immutable"


async def addresses(merchant: Merchant, fields: str) -> dict[str, str]:
    """The URLs of the image that was added last."""
    query = f"query($id: ID!) {{ product(by: {{ id: $id }}) {{ gallery {{ {fields} }} }} }}"
    found: dict[str, str] = (await merchant.client.ask(query, id=merchant.product))["product"]["gallery"][-1]
    return found


async def kept(objects: ObjectStorage, image: Any) -> list[str]:
    """The stored objects of an image."""
    return [stored.key.rpartition("/")[2] async for stored in objects.list("media/") if image["id"] in stored.key]


# ---------------------------------------------------------------------------------------------------- addresses


def address(
    width: int | None = None, height: int | None = None, extension: str | None = None, own: tuple[int, int] = (900, 600)
) -> str:
    shown = ProductImage("https://a.example/media/1/full.jpg", "1", *own, extension="jpg")
    return build_resized_address(shown, width, height, extension).rpartition("/")[2]


def test_url_uses_next_larger_width() -> None:
    assert [address(width) for width in (1, 32, 33, 640, 641, 768, 769, 900, 5_000)] == (
        ["32.jpg", "32.jpg", "64.jpg", "640.jpg", "768.jpg", "768.jpg", "full.jpg", "full.jpg", "full.jpg"]
    )
    assert address() == "full.jpg" and address(extension="avif") == "full.avif"


def test_height_bounds_the_image_box() -> None:
    assert address(height=100) == "256.jpg"
    assert address(width=600, height=100) == "256.jpg" and address(width=100, height=600) == "128.jpg"
    assert address(width=64, height=64, own=(1, 3_000)) == "full.jpg"


def test_image_url_variants_are_few() -> None:
    every = {address(width, height, own=(4_096, 3_072)) for width in range(1, 10_000, 7) for height in (None, 50, 500, 5_000)}
    assert every == {f"{width}.jpg" for width in RENDITION_WIDTHS if width < 4_096} | {"full.jpg"}
    assert all(parse_rendition_name(name, 4_096) for name in every)


@pytest.mark.parametrize(
    "name", ["33.jpg", "0.jpg", "-1.jpg", "64", "64.svg", "64.jpg.exe", "full", "064.jpg", "640.webp", "1e3.jpg"]
)
def test_unknown_rendition_names_are_rejected(name: str) -> None:
    assert parse_rendition_name(name, 640) is None


# ------------------------------------------------------------------------------------------------------ served


async def test_rendition_is_created_once_on_request(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(picture(size=(900, 600)))
    assert await kept(objects, image) == ["full.jpg"]
    found = await addresses(
        merchant, "small: url(width: 200) webp: url(width: 200, format: WEBP) box: url(height: 20, format: PNG)"
    )
    answers = {name: await merchant.http.get(url) for name, url in found.items()}
    shown = {name: opened(answer.content) for name, answer in answers.items()}
    assert {name: (found.format, found.size) for name, found in shown.items()} == {
        "small": ("JPEG", (256, 171)),
        "webp": ("WEBP", (256, 171)),
        "box": ("PNG", (32, 21)),
    }
    assert [answer.headers["content-type"] for answer in answers.values()] == ["image/jpeg", "image/webp", "image/png"]
    assert await kept(objects, image) == ["256.jpg", "256.webp", "32.png", "full.jpg"]
    again = await merchant.http.get(found["small"])
    assert again.content == answers["small"].content


async def test_image_url_is_immutable(merchant: Merchant) -> None:
    image = await merchant.add_image(picture())
    answer = await merchant.http.get(image["small"])
    headers = answer.headers
    assert headers["cache-control"] == LONG and headers["etag"] and headers["content-length"] == str(len(answer.content))
    assert headers["x-content-type-options"] == "nosniff" and headers["access-control-allow-origin"] == "*"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    known = await merchant.http.get(image["small"], headers={"if-none-match": headers["etag"]})
    assert known.status_code == 304 and known.content == b"" and known.headers["cache-control"] == LONG
    head = await merchant.http.head(image["small"])
    assert (head.content, head.headers["content-length"], head.headers["etag"]) == (
        b"",
        headers["content-length"],
        headers["etag"],
    )
    for lines in (["*"], ['"other"', f"W/{headers['etag']}"]):
        request = httpx.Request("GET", image["small"], headers=[("if-none-match", line) for line in lines])
        assert (await merchant.http.send(request)).status_code == 304


async def test_unlisted_sizes_are_not_rendered(merchant: Merchant, objects: ObjectStorage) -> None:
    image = await merchant.add_image(picture())
    base = image["url"].rpartition("/")[0]
    others = ["100.jpg", "601.jpg", "640.jpg", "768.webp", "64.bmp", "..%2ffull.jpg", "full.jpg%00", "full.svg"]
    for url in (*(f"{base}/{name}" for name in others), image["url"].replace(image["id"], str(uuid7())), f"{base}/x/full.jpg"):
        assert (await merchant.http.get(url)).status_code == 404, url
    for url in (image["url"].replace(image["id"], name) for name in ("..", "none", "%2e%2e")):
        assert (await merchant.http.get(url)).status_code == 404, url
    assert await kept(objects, image) == ["full.jpg"]


async def test_concurrent_requests_render_once(merchant: Merchant, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = image_processing.ImageProcessor.resize_stored

    async def counting(self: image_processing.ImageProcessor, content: bytes, width: int, extension: str) -> bytes:
        made.append(extension)
        return await real(self, content, width, extension)

    monkeypatch.setattr(image_processing.ImageProcessor, "resize_stored", counting)
    image = await merchant.add_image(picture())
    answers = await asyncio.gather(*(merchant.http.get(image["small"]) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200} and made == ["jpg"]


async def test_invalid_size_arguments_are_rejected(merchant: Merchant) -> None:
    asked = "query($id: ID!) { product(by: { id: $id }) { gallery { url(width: 0) } } }"
    refusal = await merchant.client.refusal(asked, id=merchant.product)
    assert refusal["extensions"] | {"requestId": ""} == {"code": "BAD_USER_INPUT", "field": "width", "requestId": ""}


async def test_removed_image_is_served_during_grace_period(merchant: Merchant) -> None:
    image = await merchant.add_image(picture())
    await merchant.client.ask(REMOVE, input={"id": image["id"]})
    assert (await merchant.http.get(image["url"])).status_code == 200


# ----------------------------------------------------------------------------------------------------- buckets


async def test_public_bucket_is_redirected_to(postgres: str, template: str, tmp_path: Path, s3_server: S3Server) -> None:
    name = f"bucket-{uuid7().hex}"
    given = {**s3_server.settings(name), "s3_public_url": f"{s3_server.endpoint}/{name}"}
    s3_server.open(name, "media/")
    async with serving(fresh(postgres, template), tmp_path, **given) as client:
        merchant = await make_merchant(client, client.http)
        image = await merchant.add_image(picture())
        for url, size in ((image["url"], (600, 400)), (image["small"], (128, 85))):
            answer = await client.http.get(url)
            assert answer.status_code == 307 and answer.headers["cache-control"] == "public, max-age=3600"
            there = await client.http.get(answer.headers["location"])
            assert opened(there.content).size == size and there.headers["cache-control"] == LONG


async def test_unreachable_bucket_is_service_unavailable(postgres: str, template: str, tmp_path: Path) -> None:
    away: dict[str, Any] = {"s3_bucket": "shop", "s3_access_key_id": "key", "s3_secret_access_key": SecretStr("secret")}
    endpoint = f"http://127.0.0.1:{free_port()}"
    async with serving(fresh(postgres, template), tmp_path, **away, s3_endpoint=endpoint) as client:
        merchant = await make_merchant(client, client.http)
        upload = (await merchant.create_upload(picture()))["upload"]
        assert upload["url"].startswith(endpoint)
        confirm = "mutation($input: ConfirmImageUploadInput!) { confirmImageUpload(input: $input) { position } }"
        asked = {"uploadId": upload["id"], "productId": merchant.product}
        refusal = await merchant.client.refusal(confirm, input=asked)
        assert refusal["extensions"]["code"] == "SERVICE_UNAVAILABLE" and "try again" in refusal["message"]


# --------------------------------------------------------------------------------------------------- allowed origins


async def test_cors_allows_any_origin(postgres: str, template: str, tmp_path: Path) -> None:
    async with serving(fresh(postgres, template), tmp_path, allowed_origins="https://admin.example") as client:
        merchant = await make_merchant(client, client.http)
        content = picture()
        upload = (await merchant.create_upload(content))["upload"]
        for origin in ("https://admin.example", "https://other.example"):
            asked = {"access-control-request-method": "PUT", "access-control-request-headers": "content-type"}
            answer = await client.http.options(upload["url"], headers={"origin": origin, **asked})
            assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "*"
            answer = await merchant.send_file(upload, content, origin=origin)
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
        image = (await merchant.confirm(upload["id"]))["image"]
        shown = await client.http.get(image["url"], headers={"origin": "https://other.example"})
        assert shown.headers["access-control-allow-origin"] == "*"


# ------------------------------------------------------------------------------------------------------- measured


async def test_image_metrics_are_exported(postgres: str, template: str, tmp_path: Path) -> None:
    port = free_port()
    async with serving(fresh(postgres, template), tmp_path, metrics_port=port) as client:
        merchant = await make_merchant(client, client.http)
        image = await merchant.add_image(picture())
        assert len((await merchant.confirm(await merchant.upload(b"no picture")))["userErrors"]) == 1
        for _ in range(3):
            await client.http.get(image["small"])
        received = (await client.http.get(f"http://127.0.0.1:{port}/metrics")).text
    counts = {"processed": 1, "rejected": 1, "resized": 1}
    assert {f'storefront_images_total{{outcome="{name}"}} {count}.0' for name, count in counts.items()} <= set(
        received.splitlines()
    )
    assert "storefront_images_waiting 0.0" in received.splitlines()
    assert 'route="/media/{key}/{name}"' in received and image["id"] not in received
