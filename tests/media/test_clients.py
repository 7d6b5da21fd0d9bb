"""The upload example of the guide, run unchanged."""

import json
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from storefront.serving.graphiql import assets
from tests.clients.npm import CLIENTS, environment, marked
from tests.media.flow import Merchant
from tests.pictures import opened, picture, scripted_png

EXAMPLE = CLIENTS / "media" / "upload.mjs"


async def run(merchant: Merchant, path: Path, type_: str) -> Any:
    """Run the example; returns its output."""
    endpoint, token = f"{merchant.client.http.base_url}/graphql".replace("//graphql", "/graphql"), merchant.client.token or ""
    node, _ = assets.find_node_and_npm()
    command = [str(node), str(EXAMPLE), endpoint, token, merchant.store, merchant.product, str(path), type_]
    process = await create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment())
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return json.loads(said)


async def test_guide_upload_example_works(merchant: Merchant, tmp_path: Path) -> None:
    file = tmp_path / "mug.jpg"
    file.write_bytes(picture(size=(900, 600)))
    image = await run(merchant, file, "image/jpeg")
    assert (image["width"], image["height"], image["alt"]) == (900, 600, "A picture")
    assert opened((await merchant.http.get(image["small"])).content).size == (384, 256)
    file.write_bytes(scripted_png())
    assert "markup or a script" in (await run(merchant, file, "image/png"))["error"]


def test_guide_contains_upload_example() -> None:
    assert marked(EXAMPLE) in (CLIENTS.parent / "docs" / "media.md").read_text()
