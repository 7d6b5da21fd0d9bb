"""The demo shop: its pages and files, and the built shop in a browser on the demo data."""

import asyncio
import base64
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from storefront import shop_page
from storefront.cli.users import issue_token
from storefront.core.db.database import Database
from storefront.core.settings import Settings
from storefront.core.storage.factory import create_object_storage
from storefront.demo.commands import seed, store_pictures
from storefront.demo.plan import EXAMPLE_HANDLE, OWNER_EMAIL
from tests.browser import Browser, chromium, needs_chromium, watched
from tests.client import SECRET, Client
from tests.clients.npm import CLIENTS, installed
from tests.conftest import fresh
from tests.feed.processes import running

SHOP = CLIENTS / "demo-shop"
AXE = SHOP / "node_modules" / "axe-core" / "axe.min.js"
STEPS = (["node_modules/typescript/bin/tsc"], ["node_modules/vite/bin/vite.js", "build", "--logLevel", "error"])
PRODUCTS = 250
# In the title of the example and of others.
SEARCHED = "Classic"


# ------------------------------------------------------------------------------------------------- the pages


async def test_page_without_build_names_the_command(shopper: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shop_page, "BUILD_FOLDER", tmp_path)
    page = await shopper.http.get("/shop/a-store/products")
    assert page.status_code == 404 and "<code>make demo-shop</code>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await shopper.http.get("/shop-files/shop.js")).status_code == 404


async def test_pages_have_csp_and_immutable_files(shopper: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shop_page, "BUILD_FOLDER", tmp_path)
    for name in shop_page.FILE_NAMES:
        (tmp_path / name).write_text("/* built */")
    (tmp_path / "secret.js").write_text("")
    for path in ("/shop/a-store", "/shop/a-store/", "/shop/a-store/products/a", "/shop/a-store/products/a%2Fb"):
        page = await shopper.http.get(path)
        policy = page.headers["content-security-policy"]
        assert page.status_code == 200 and page.headers["cache-control"] == "no-store"
        assert "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
        addresses = re.findall(r'(?:src|href)="([^"]*shop-files/[^"]+)"', page.text)
        assert len(addresses) == 2
        for address in addresses:
            url = page.url.join(address)
            assert url.path in ("/shop-files/shop.js", "/shop-files/shop.css")
            assert (await shopper.http.get(url)).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (await shopper.http.get("/shop-files/secret.js")).status_code == 404


@pytest.mark.parametrize("slug", ["Nord", "a%3Cscript%3E", "a..b", "a" * 101])
async def test_invalid_slug_is_not_found(shopper: Client, slug: str) -> None:
    page = await shopper.http.get(f"/shop/{slug}")
    assert page.status_code == 404 and "<" not in page.text


# --------------------------------------------------------------------------------------------- in a browser


@dataclass(frozen=True, slots=True)
class Demo:
    """A server with demo data, and its biggest store."""

    address: str
    slug: str
    token: str

    def ask(self, query: str, **variables: Any) -> Any:
        """Execute a document as the owner; returns its data."""
        headers = {"authorization": f"Bearer {self.token}"}
        answer = httpx.post(f"{self.address}/graphql", json={"query": query, "variables": variables}, headers=headers, timeout=30)
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    def find_store(self) -> str:
        """The id of the store."""
        return str(self.ask("query ($slug: String!) { config(by: {slug: $slug}) { id } }", slug=self.slug)["config"]["id"])


@pytest.fixture(scope="module")
def built() -> None:
    """The shop in dist/, with its types checked; skips if its packages cannot be downloaded."""
    node = installed(SHOP)
    for step in STEPS:
        done = subprocess.run([str(node), *step], cwd=SHOP, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(built: None, postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    url, folder = fresh(postgres, template), tmp_path_factory.mktemp("demo")
    options = Settings(database_url=SecretStr(url), secret=SecretStr(SECRET), data_dir=folder)
    with running(url, folder) as server:

        async def fill() -> str:
            async with Database(url) as database:
                summary = await seed(database, products=PRODUCTS, events=0, base_url=server.address)
            objects = create_object_storage(options)
            async with objects.running():
                await store_pictures(objects)
            return str(summary.slug)

        slug = asyncio.run(fill())
        token = issue_token(options, url, OWNER_EMAIL, None, days=1)
        yield Demo(server.address, slug, token)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "chromium") as socket:
        opened = Browser(socket)
        watched(opened)
        yield opened


def check_accessibility(page: Browser) -> None:
    """Run axe on the page as it is: in the light and in the dark, on a screen and on a phone."""
    page.run(AXE.read_text())
    for scheme, width in (("light", 1400), ("dark", 390)):
        page.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ])  # fmt: skip
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        page.run("window.found = null; axe.run().then((result) => { window.found = JSON.stringify(result.violations) }); 0")
        violations = json.loads(page.wait("window.found"))
        places = [(one["id"], scheme, [node["html"][:200] for node in one["nodes"][:3]]) for one in violations]
        assert places == []
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), f"the page is wider than {width} pixels"
    page.call("Emulation.clearDeviceMetricsOverride")


def open_page(page: Browser, demo: Demo, path: str = "") -> None:
    """Open a page of the shop, and wait for its heading."""
    page.call("Page.navigate", url=f"{demo.address}/shop/{demo.slug}{path}")
    page.wait(
        "document.querySelector('h1') && document.querySelector('.live-live') && !document.querySelector('[aria-busy=true]')"
    )


def count_products(page: Browser) -> int:
    """The number of products that the list says it has, once it was read."""
    text = page.wait(
        "/^\\d+ product/.test(document.querySelector('.count')?.textContent) && document.querySelector('.count').textContent"
    )
    return int(text.split()[0])


def find_problems(page: Browser) -> list[Any]:
    """What the browser complains of, without violations that axe's own styles cause."""
    return [one for one in page.complaints() if "axe" not in json.dumps(one)]


@needs_chromium
def test_shopper_finds_a_product_and_sees_its_stock_change(demo: Demo, page: Browser) -> None:
    open_page(page, demo)
    page.wait("document.querySelectorAll('.categories li').length >= 3 && document.querySelectorAll('.card').length === 8")
    check_accessibility(page)

    # The list: all pages by scrolling, each product once.
    page.run("document.querySelector('.hero .button').click()")
    total = count_products(page)
    while page.run("document.querySelectorAll('.card').length") < total:
        before = page.run("document.querySelectorAll('.card').length")
        page.run("scrollTo(0, document.body.scrollHeight)")
        page.wait(f"document.querySelectorAll('.card').length > {before}")
    assert page.run("new Set([...document.querySelectorAll('.card-link')].map((a) => a.href)).size") == total
    check_accessibility(page)

    # A facet: as many products as it says, and the address has it.
    label = page.run("document.querySelector('.facets .choice').textContent")
    page.run("document.querySelector('.facets .choice input').click()")
    expected = int(re.search(r"\d+$", label)[0])  # type: ignore[index]
    page.wait(f"document.querySelector('.count').textContent.startsWith('{expected} product')")
    assert 0 < expected < total and "category=" in page.run("location.search")
    page.run("document.querySelector('.facets .text-button').click()")
    page.wait(f"document.querySelector('.count').textContent.startsWith('{total} product')")

    # A search as it is typed.
    page.run("document.querySelector('#search').focus()")
    for letter in SEARCHED:
        page.call("Input.insertText", text=letter)
    page.wait(f"document.querySelector('h1').textContent.includes('{SEARCHED}')")
    found = demo.ask(
        "query ($id: ID!, $search: String!) { products(configId: $id, search: $search, filter: {statuses: [ACTIVE]})"
        " { totalCount } }",
        id=demo.find_store(), search=SEARCHED,
    )["products"]["totalCount"]  # fmt: skip
    page.wait(f"document.querySelector('.count').textContent.startsWith('{found} product')")
    assert 0 < found < total and page.run("document.activeElement.id") == "search"

    # A product: another variant, and its stock as it changes.
    open_page(page, demo, f"/products/{EXAMPLE_HANDLE}")
    page.wait("document.querySelectorAll('.option input').length > 1 && document.querySelectorAll('.review-list li').length > 0")
    check_accessibility(page)
    page.run("document.querySelectorAll('.option input:not(:checked)')[0].click()")
    chosen = page.run(
        "Object.fromEntries([...document.querySelectorAll('.option legend')].map((one) => one.textContent.split(': ')))"
    )
    product = demo.ask(
        "query ($id: ID!, $handle: String!) { product(by: {handle: {configId: $id, handle: $handle}})"
        " { id variants { nodes { id attributes { name value } } } } }",
        id=demo.find_store(), handle=EXAMPLE_HANDLE,
    )["product"]  # fmt: skip
    attributes = [{"name": name, "value": value} for name, value in chosen.items()]
    [variant] = [one["id"] for one in product["variants"]["nodes"] if all(pair in one["attributes"] for pair in attributes)]
    track = "mutation ($id: ID!) { updateProduct(input: {id: $id, trackInventory: true}) { position } }"
    demo.ask(track, id=product["id"])
    for inventory, text in ((3, "Only 3 left"), (0, "Sold out"), (41, "41 in stock")):
        change = "mutation ($id: ID!, $inventory: Int!) { updateVariant(input: {id: $id, inventory: $inventory}) { position } }"
        assert demo.ask(change, id=variant, inventory=inventory)["updateVariant"]["position"]
        page.wait(f"document.querySelector('.stock').textContent === '{text}'")
    assert find_problems(page) == []


def type_into(page: Browser, selector: str, text: str) -> None:
    """Replace the text of a field as a user does."""
    page.wait(f"!!document.querySelector('{selector}')")
    page.run(f"document.querySelector('{selector}').focus(); document.querySelector('{selector}').select()")
    page.call("Input.insertText", text=text)


def edit(page: Browser, field: str, text: str) -> None:
    """Change a field of the open form of the product, and save."""
    type_into(page, f".product .edit-form [name={field}]", text)
    page.run("document.querySelector('.product .edit-form [type=submit]').click()")


def wait_for_stored(page: Browser, viewer: str, *, is_stored: bool) -> None:
    """Wait until the browser has stored something for this user, or nothing."""
    page.run("""window.readKeys = () => {
        indexedDB.open('storefront').onsuccess = ({ target: { result: database } }) => {
            database.transaction('entries').objectStore('entries').getAllKeys().onsuccess = ({ target }) => {
                window.keys = target.result.join();
                database.close();
            };
        };
        return window.keys;
    }; window.keys = undefined; 0""")
    page.wait(f"window.readKeys() !== undefined && window.keys.includes('{viewer}') === {str(is_stored).lower()}")


@needs_chromium
def test_owner_edits_with_conflicts_and_without_network(demo: Demo, page: Browser) -> None:
    example = "query ($id: ID!, $handle: String!) { product(by: {handle: {configId: $id, handle: $handle}}) { id title price } }"
    store = demo.find_store()

    def read() -> dict[str, str]:
        return dict(demo.ask(example, id=store, handle=EXAMPLE_HANDLE)["product"])

    original = read()
    open_page(page, demo, f"/products/{EXAMPLE_HANDLE}")
    assert not page.run("document.querySelector('.edit')")
    page.run("document.querySelector('.top nav > button').click()")
    check_accessibility(page)
    type_into(page, "dialog textarea", "no token")
    page.run("document.querySelector('dialog [type=submit]').click()")
    page.wait("document.querySelector('.problem').textContent.startsWith('This is not a token')")
    type_into(page, "dialog textarea", demo.token)
    page.run("document.querySelector('dialog [type=submit]').click()")
    page.wait(
        "document.querySelector('.banner')?.textContent.startsWith('Staff mode') && !!document.querySelector('.product .edit')"
    )

    # Shown at once, and written.
    page.run("document.querySelector('.product .edit').click()")
    page.wait("!!document.querySelector('.product .edit-form')")
    check_accessibility(page)
    edit(page, "title", "Renamed By Staff")
    page.wait("document.querySelector('h1').textContent.startsWith('Renamed By Staff')")
    page.wait("!document.querySelector('.product .note')?.textContent.includes('Saving')")
    assert read() == original | {"title": "Renamed By Staff"}

    # Another user changes the same field meanwhile.
    page.run("document.querySelector('.product .edit').click()")
    page.wait("!!document.querySelector('.product .edit-form')")
    change = "mutation ($id: ID!, $title: String!) { updateProduct(input: {id: $id, title: $title}) { position } }"
    assert demo.ask(change, id=original["id"], title="Theirs")["updateProduct"]["position"]
    page.wait("document.querySelector('h1').textContent.startsWith('Theirs')")
    edit(page, "title", "Mine")
    page.wait("document.querySelector('.conflict')?.innerText.includes('theirs: Theirs')")
    assert read()["title"] == "Theirs" and "yours: Mine" in page.run("document.querySelector('.conflict').innerText")
    check_accessibility(page)
    page.run("document.querySelector('.conflict button').click()")
    page.wait("document.querySelector('h1').textContent.startsWith('Mine') && !document.querySelector('.conflict')")
    page.wait("!/waiting/.test(document.querySelector('.banner').textContent)")
    assert read()["title"] == "Mine"

    # Without a network: shown, and written when it is back.
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **network)
    page.wait("document.querySelector('.banner').textContent.startsWith('You are offline')")
    page.run("document.querySelector('.product .edit').click()")
    edit(page, "title", "Written Offline")
    page.wait("document.querySelector('.banner').textContent.includes('1 change is waiting')")
    assert page.run("document.querySelector('h1').textContent").startswith("Written Offline") and read()["title"] == "Mine"
    check_accessibility(page)
    page.call("Network.emulateNetworkConditions", offline=False, **network)
    page.wait("document.querySelector('.banner').textContent === 'Staff mode: titles and prices can be edited.'")
    assert read()["title"] == "Written Offline"

    # Nothing of the owner stays in the browser.
    owner = json.loads(base64.urlsafe_b64decode(demo.token.split(".")[1] + "=="))["sub"]
    wait_for_stored(page, owner, is_stored=True)
    page.run("document.querySelector('.top nav > button').click()")
    page.wait("document.querySelector('.live-live') && !document.querySelector('.banner, .edit')")
    wait_for_stored(page, owner, is_stored=False)
