"""The guide's upload code in a real browser, on a page of another origin: draws, uploads and displays an image."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from storefront.core.ids import uuid7
from tests.browser import Browser, chromium, needs_chromium, watched
from tests.clients.npm import CLIENTS, marked
from tests.conftest import fresh, serving
from tests.media.flow import make_merchant
from tests.ports import free_port
from tests.s3 import S3Server

pytestmark = needs_chromium

PAGE = """<!DOCTYPE html><link rel="icon" href="data:,"><canvas width="600" height="400"></canvas><script type="module">
const { ENDPOINT, TOKEN, configId, productId } = $GIVEN;
$GUIDE
const canvas = document.querySelector('canvas');
const pencil = canvas.getContext('2d');
pencil.fillStyle = 'rgb(255, 0, 0)';
pencil.fillRect(0, 0, 600, 400);
const blob = await new Promise((done) => canvas.toBlob(done, 'image/webp', 0.9));
try {
  const image = await showPicture(new File([blob], 'red.webp', { type: blob.type }), { configId, productId, alt: 'Red' });
  const shown = new Image();
  shown.crossOrigin = 'anonymous';
  shown.src = image.small;
  await shown.decode();
  // Only a picture that this page may read can be read from the canvas again.
  pencil.drawImage(shown, 0, 0);
  const colour = [...pencil.getImageData(10, 10, 1, 1).data];
  window.result = JSON.stringify({ ...image, shown: [shown.naturalWidth, shown.naturalHeight], colour });
} catch (error) {
  window.result = JSON.stringify({ error: String(error) });
}
</script>"""


@asynccontextmanager
async def page_of(port: int, given: dict[str, str]) -> AsyncIterator[str]:
    """Serve the page from another origin, with its settings."""
    guide = marked(CLIENTS / "media" / "upload.mjs")
    text = PAGE.replace("$GIVEN", json.dumps(given)).replace("$GUIDE", guide)

    async def page(_: Request) -> Response:
        return HTMLResponse(text)

    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route("/", page)]), port=port, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  it has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    await task


def seen(profile: Path, url: str) -> tuple[Any, list[Any]]:
    """The result of the page, and the errors of the browser."""
    with chromium(profile) as socket:
        page = Browser(socket)
        watched(page)
        page.call("Page.navigate", url=url)
        return json.loads(page.wait("window.result")), page.complaints()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
async def test_cross_origin_page_uploads_and_displays(
    postgres: str, template: str, tmp_path: Path, s3_server: S3Server, kind: str
) -> None:
    port, bucket = free_port(), f"bucket-{uuid7().hex}"
    origin = f"http://127.0.0.1:{port}"
    options = s3_server.settings(bucket) if kind == "bucket" else {}
    if kind == "bucket":
        s3_server.let_in(bucket, origin)
    async with serving(fresh(postgres, template), tmp_path / "server", allowed_origins=origin, **options) as client:
        merchant = await make_merchant(client, client.http)
        endpoint = f"{str(client.http.base_url).rstrip('/')}/graphql"
        given = {"ENDPOINT": endpoint, "TOKEN": str(merchant.client.token)}
        async with page_of(port, {**given, "configId": merchant.store, "productId": merchant.product}) as url:
            result, complaints = await asyncio.to_thread(seen, tmp_path / "profile", url)
    assert "error" not in result, result
    assert (result["width"], result["height"], result["alt"], result["shown"]) == (600, 400, "Red", [384, 256])
    red, green, blue, _ = result["colour"]
    assert red > 240 and green < 15 and blue < 15
    assert complaints == []
