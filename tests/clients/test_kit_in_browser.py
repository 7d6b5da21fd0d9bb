"""The client kit in a real browser: a reload without a network shows the last list, and writes arrive once afterwards."""

import asyncio
import json
import subprocess
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

from tests.browser import Browser, chromium, needs_chromium, watched
from tests.clients.network import Network, network
from tests.clients.npm import installed
from tests.clients.test_examples import Shop
from tests.clients.test_kit import DRIVERS, KIT, build
from tests.conftest import fresh, serving
from tests.factories import make_product, make_store, make_user
from tests.ports import free_port

pytestmark = needs_chromium
PAGE = """<!DOCTYPE html><link rel="icon" href="data:,"><body></body><script>window.given = $GIVEN</script>
<script type="module">$BUNDLE</script>"""


@pytest.fixture(scope="module")
def bundle() -> str:
    """The page's code with the built package in it."""
    node = installed(KIT)
    build(node)
    command = ["--bundle", "--format=esm", "--minify", f"--alias:@storefront/client={KIT / 'dist' / 'index.js'}"]
    esbuild = KIT / "node_modules" / "esbuild" / "bin" / "esbuild"
    built = subprocess.run(
        [str(node), str(esbuild), str(DRIVERS / "browser.mjs"), *command], capture_output=True, text=True, check=True, cwd=KIT
    )
    return built.stdout.replace("</script", "<\\/script")


@asynccontextmanager
async def page_of(port: int, text: str) -> AsyncIterator[str]:
    """Serve the page from an origin of its own."""

    async def page(_: Request) -> Response:
        return HTMLResponse(text)

    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route("/", page)]), port=port, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  it has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    await task


def visit(profile: Path, url: str, cables: Network, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Read the list, lose the network, write, reload, and get the network back."""
    with chromium(profile) as socket:
        page = Browser(socket)
        watched(page)

        def read(condition: str) -> Any:
            page.wait(f"window.kit && (({{titles, pending, state}}) => {condition})(JSON.parse(kit.state()))")
            return json.loads(page.run("kit.state()"))

        page.call("Page.navigate", url=url)
        online = read("state === 'live' && titles.length === 200")
        loop.call_soon_threadsafe(cables.cut)
        read("state !== 'live'")
        for title in ("First", "Second", "Third"):
            page.run(f"kit.create('{title}')")
        read("pending === 3 && titles.length === 203")
        page.call("Page.reload")
        page.wait("window.kit && performance.getEntriesByType('navigation')[0].type === 'reload'")
        offline = read("pending === 3 && titles.length === 203")
        loop.call_soon_threadsafe(cables.restore)
        last = read("pending === 0 && titles.length === 203 && state === 'live'")
    return {"online": online, "offline": offline, "last": last}


async def test_reload_without_network_shows_the_last_list(postgres: str, template: str, tmp_path: Path, bundle: str) -> None:
    port = free_port()
    async with serving(fresh(postgres, template), tmp_path / "server", allowed_origins=f"http://127.0.0.1:{port}") as client:
        user = await make_user(client.database)
        own = Shop(client.signed_in(user), await make_store(client.database, user_id=user))
        for number in range(200):
            await make_product(client.database, own.store, title=f"Old {number}")
        async with network(client) as (cables, url):
            given = json.dumps({"url": url, "token": own.owner.token, "configId": own.store})
            async with page_of(port, PAGE.replace("$GIVEN", given).replace("$BUNDLE", bundle)) as address:
                loop = asyncio.get_running_loop()
                seen = await asyncio.to_thread(visit, tmp_path / "profile", address, cables, loop)
        query = "SELECT p.title FROM changes c JOIN products p ON p.id = c.product_id WHERE c.config_id = %s ORDER BY c.position"
        async with client.database.transaction() as connection:
            rows = await (await connection.raw.execute(query, [own.store])).fetchall()
    print(f"Reload without a network: 200 rows after {seen['offline']['shownAfterMs']:.0f} ms.")
    assert seen["offline"]["titles"] == ["Third", "Second", "First", *seen["online"]["titles"]]
    assert [row[0] for row in rows] == ["First", "Second", "Third"]
    assert not any(state["isDoubled"] for state in seen.values())
