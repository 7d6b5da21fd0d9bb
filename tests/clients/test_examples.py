"""The examples of docs/live.md under Node against a real server: lost connections, resets and optimistic updates."""

import asyncio
import json
import re
import runpy
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from gql import Client as GQLClient
from gql import gql
from gql.transport.exceptions import TransportConnectionFailed
from gql.transport.websockets import WebsocketsTransport

from tests.client import Client
from tests.clients.network import network
from tests.clients.npm import CLIENTS, environment, installed, marked
from tests.factories import make_product, make_store, make_user

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "drive.mjs"
EXAMPLES = ["graphql-ws", "urql", "apollo", "sse"]
# Seconds that anything may take.
TIMEOUT_SECONDS = 15

LIST = """query($c: ID!) { config(by: { id: $c }) { position }
  products(configId: $c, first: 100) { nodes { id title price version } } }"""
CREATE = "mutation($input: CreateProductInput!) { createProduct(input: $input) { product { id } userErrors { message } } }"
UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
DELETE = "mutation($input: DeleteProductInput!) { deleteProduct(input: $input) { userErrors { message } } }"
PUBLISH = "mutation($input: PublishConfigInput!) { publishConfig(input: $input) { userErrors { message } } }"
UNPUBLISH = "mutation($input: UnpublishConfigInput!) { unpublishConfig(input: $input) { userErrors { message } } }"


@pytest.fixture(scope="session")
def node() -> Path:
    """The path of Node, with the examples' packages installed."""
    return installed(CLIENTS)


# --------------------------------------------------------------------------------------- a running example


class Example:
    """An example in its own process, and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[Any] = []

    @property
    def states(self) -> list[Any]:
        """The states that a user saw, in order."""
        return [line for line in self.said if "products" in line]

    @property
    def events(self) -> list[tuple[str, int]]:
        """The applied events in order: type and position."""
        events = [state["event"] for state in self.states if "event" in state]
        return [(event["__typename"], int(event["position"])) for event in events]

    async def until(self, what: Callable[[Any], bool]) -> Any:
        """Wait for a line that satisfies the condition, starting with the last one printed."""
        assert self._process.stdout
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not (self.said and what(self.said[-1])):
                line = await self._process.stdout.readline()
                if not line:
                    raise AssertionError("the example ended: " + await self._last_words())
                self.said.append(json.loads(line))
        return self.said[-1]

    async def reaches(self, position: int) -> Any:
        """The state at a position."""
        return await self.until(lambda line: line.get("position") == str(position))

    def tell(self, **command: Any) -> None:
        """Send a command to the example."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def stop(self) -> None:
        """Stop it by its own command; nothing that it opened may keep the process alive."""
        self.tell(stop=True)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert await self._process.wait() == 0, await self._last_words()

    async def _last_words(self) -> str:
        assert self._process.stderr
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def running(node: Path, name: str, **options: Any) -> AsyncIterator[Example]:
    """Start the example with this name."""
    command = [str(node), str(DRIVER), (CLIENTS / f"{name}.mjs").as_uri(), json.dumps(options)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(), limit=2**22)
    try:
        yield Example(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


class Shop:
    """A store with an owner who writes to it."""

    def __init__(self, owner: Client, store: str) -> None:
        self.owner, self.store = owner, store

    async def create(self, title: str) -> str:
        given = {"configId": self.store, "title": title, "price": "5"}
        return str((await self.owner.ask(CREATE, input=given))["createProduct"]["product"]["id"])

    async def update(self, product: str, **values: Any) -> None:
        await self.owner.ask(UPDATE, input={"id": product, **values})

    async def delete(self, product: str) -> None:
        await self.owner.ask(DELETE, input={"id": product})

    async def forget_log(self) -> None:
        async with self.owner.database.transaction() as connection:
            await connection.raw.execute("DELETE FROM changes WHERE config_id = %s", [self.store])

    async def has(self, title: str) -> None:
        """Wait until it has a product with this title."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while title not in {row["title"] for row in (await self.products()).values()}:  # noqa: ASYNC110  it is asked over HTTP
                await asyncio.sleep(0.05)

    async def products(self) -> dict[str, Any]:
        """The products on the server."""
        return by_id((await self.owner.ask(LIST, c=self.store))["products"]["nodes"])


def by_id(products: list[Any]) -> dict[str, Any]:
    rows = [{name: value for name, value in product.items() if name != "__typename"} for product in products]
    assert len(rows) == len({row["id"] for row in rows}), "a row is doubled"
    return {row["id"]: row for row in rows}


@pytest.fixture
async def shop(shopper: Client) -> Shop:
    user = await make_user(shopper.database)
    return Shop(shopper.signed_in(user), await make_store(shopper.database, user_id=user))


# ------------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("name", EXAMPLES)
async def test_example_follows_the_feed(name: str, node: Path, shop: Shop) -> None:
    a, b, c = [await make_product(shop.owner.database, shop.store) for _ in range(3)]
    async with (
        network(shop.owner) as (lines, url),
        running(node, name, url=url, tokens=[shop.owner.token], configId=shop.store) as example,
    ):
        first = await example.reaches(0)
        assert by_id(first["products"]) == await shop.products()

        # Live.
        d = await shop.create("Live")
        await shop.update(a, price="6")
        await shop.delete(b)
        assert by_id((await example.reaches(3))["products"]) == await shop.products()

        # The connection is lost, and things happen meanwhile.
        lines.cut()
        await shop.create("Missed")
        await shop.update(a, title="Missed, too")
        await shop.delete(c)
        e = await shop.create("Come and gone")
        await shop.delete(e)
        await asyncio.sleep(0.3)
        lines.restore()
        assert by_id((await example.reaches(8))["products"]) == await shop.products()

        # An optimistic row is replaced, never doubled.
        example.tell(create={"title": "Hopeful", "price": "9.00"})
        created = (await example.until(lambda line: "created" in line))["created"]
        assert created["userErrors"] == []
        await shop.update(d, price="7")
        await example.reaches(10)
        seen = [[row for row in state["products"] if row["title"] == "Hopeful"] for state in example.states]
        shown = [[row["version"] for row in rows] for rows in seen if rows]
        assert shown[0] == [0] and shown[-1] == [1] and all(len(rows) == 1 for rows in shown)
        assert seen[-1][0]["id"] == created["product"]["id"]

        # One whose answer is lost is sent again, and made once.
        lines.has_answers = False
        example.tell(create={"title": "Patient", "price": "9.00"})
        await shop.has("Patient")
        lines.cut()
        await asyncio.sleep(0.3)
        lines.restore()
        await example.until(lambda line: "created" in line)
        await shop.update(d, price="8")
        assert by_id((await example.reaches(12))["products"]) == await shop.products()

        # What was missed is no longer kept.
        lines.cut()
        await shop.create("Lost")
        await shop.update(d, title="Lost, too")
        await shop.forget_log()
        await asyncio.sleep(0.3)
        lines.restore()
        assert by_id((await example.reaches(14))["products"]) == await shop.products()
        await shop.update(d, price="9")
        last = await example.reaches(15)
        assert by_id(last["products"]) == await shop.products()
        await example.stop()

    kinds, positions = zip(*example.events, strict=True)
    assert positions == (*range(1, 13), 14, 15)
    # What came and went while nobody listened is told as gone, twice.
    assert Counter(kinds) == {"ProductCreated": 4, "ProductUpdated": 5, "ProductDeleted": 4, "FeedReset": 1}
    assert kinds[12] == "FeedReset"


@pytest.mark.parametrize("name", EXAMPLES)
async def test_shopper_sees_unpublishing_and_publishing(name: str, node: Path, shopper: Client, shop: Shop) -> None:
    product = await make_product(shopper.database, shop.store)
    other = shopper.signed_in(await make_user(shopper.database))
    url = str(shopper.http.base_url).rstrip("/") + "/graphql"
    async with running(node, name, url=url, tokens=[other.token], configId=shop.store) as example:
        await example.reaches(0)
        await shop.update(product, price="6")
        await example.reaches(1)
        await shop.owner.ask(UNPUBLISH, input={"id": shop.store})
        assert (await example.reaches(2))["products"] == []
        await shop.owner.ask(PUBLISH, input={"id": shop.store})
        assert [row["id"] for row in (await example.reaches(3))["products"]] == [product]
        await example.stop()


@pytest.mark.parametrize("name", EXAMPLES)
async def test_shopper_without_token_follows_a_filtered_list(name: str, node: Path, shopper: Client, shop: Shop) -> None:
    cheap, dear = [await make_product(shopper.database, shop.store, price=price) for price in ("5", "50")]
    url = str(shopper.http.base_url).rstrip("/") + "/graphql"
    async with running(node, name, url=url, tokens=[], configId=shop.store, filter={"maxPrice": "10"}) as example:
        assert [row["id"] for row in (await example.reaches(0))["products"]] == [cheap]
        await shop.update(dear, price="9")
        assert {row["id"] for row in (await example.reaches(1))["products"]} == {cheap, dear}
        await shop.update(cheap, price="11")
        assert [row["id"] for row in (await example.reaches(2))["products"]] == [dear]
        await example.stop()
    assert example.events == [("ProductCreated", 1), ("ProductDeleted", 2)]


@pytest.mark.parametrize(("good", "name"), [(0, "graphql-ws"), *((2, name) for name in EXAMPLES)])
async def test_example_ends_when_rejected(good: int, name: str, node: Path, shop: Shop) -> None:
    url = str(shop.owner.http.base_url).rstrip("/") + "/graphql"
    # Two requests list the products, the third one is the feed.
    tokens = [*[shop.owner.token] * good, "nonsense"]
    async with running(node, name, url=url, tokens=tokens, configId=shop.store) as example:
        failure = await example.until(lambda line: "failed" in line)
        assert re.search("4401|UNAUTHENTICATED|401|Unauthorized", str(failure["failed"]))
        assert len(example.states) == good // 2


@pytest.mark.parametrize("is_owner", [True, False])
async def test_python_example_follows_the_feed(shopper: Client, shop: Shop, is_owner: bool) -> None:
    listen = runpy.run_path(str(CLIENTS / "live.py"))["events"]
    async with network(shopper) as (lines, address):
        url = address.replace("http", "ws")
        token = (lambda: shop.owner.token) if is_owner else None
        events = listen(url, token, shop.store, "0")
        await shop.create("Missed")
        received = [await anext(events)]
        lines.cut()
        await shop.create("Missed, too")
        lines.restore()
        received.append(await anext(events))
        await shop.create("Live")
        received.append(await anext(events))
        await events.aclose()
        with pytest.raises(TransportConnectionFailed, match="ConnectionClosedError"):
            await anext(listen(url, lambda: "nonsense", shop.store, "0"))
    assert [(event["position"], event["product"]["title"]) for event in received] == [
        ("1", "Missed"),
        ("2", "Missed, too"),
        ("3", "Live"),
    ]


async def test_live_list_follows_its_order(node: Path, shop: Shop) -> None:
    async with (
        network(shop.owner) as (lines, url),
        running(
            node, "live-list", url=url, tokens=[shop.owner.token], configId=shop.store, sort={"key": "NAME"}, first=2
        ) as example,
    ):
        await example.until(lambda line: line["products"] == [])
        b, _ = await shop.create("B"), await shop.create("C")

        async def shows(*titles: str) -> None:
            await example.until(lambda line: [row["title"] for row in line["products"]] == [*titles])

        await shows("B", "C")
        await shop.create("A")
        await shows("A", "B")
        await shop.update(b, title="D")
        await shows("A", "C")
        lines.cut()
        await shop.update(b, title="Again")
        lines.restore()
        await shows("A", "Again")
        await shop.delete(b)
        await shows("A", "C")
        await example.stop()


async def test_python_client_queries_over_the_socket(shopper: Client, shop: Shop) -> None:
    address = str(shopper.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    transport = WebsocketsTransport(url=address, init_payload={"authorization": f"Bearer {shop.owner.token}"})
    async with GQLClient(transport=transport) as session:
        assert (await session.execute(gql("{ me { configs { nodes { id } } } }")))["me"]["configs"]["nodes"] == [
            {"id": shop.store}
        ]


@pytest.mark.parametrize("path", sorted([*CLIENTS.glob("*.mjs"), *CLIENTS.glob("*.py")]), ids=lambda path: path.name)
def test_guide_contains_the_examples(path: Path) -> None:
    language = {".mjs": "js", ".py": "python"}[path.suffix]
    assert f"```{language}\n{marked(path)}\n```\n" in (ROOT / "docs" / "live.md").read_text()


@pytest.mark.parametrize(
    "folder", [CLIENTS, CLIENTS / "http", CLIENTS / "typescript", CLIENTS / "demo-shop"], ids=lambda folder: folder.name
)
def test_lock_file_pins_integrity_without_registry(folder: Path) -> None:
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    fetched = [entry for name, entry in packages.items() if name]
    assert fetched and all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in fetched)
