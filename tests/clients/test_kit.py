"""The npm package @storefront/client: built, checked, and run in Node against a real server whose connections are cut."""

import asyncio
import hashlib
import json
import re
import subprocess
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fasteners import InterProcessLock

from storefront.core.db.database import Database
from storefront.core.net.tls import load_tls_context
from tests.client import Client, token_of
from tests.clients.network import Network, network, network_to
from tests.clients.npm import CLIENTS, LOCKS, environment, installed, lines
from tests.clients.test_examples import Example, Shop, by_id
from tests.conftest import fresh, serving
from tests.factories import make_product, make_store, make_user
from tests.feed import processes

KIT = CLIENTS / "typescript"
DIST = KIT / "dist"
DRIVERS = Path(__file__).parent / "kit"
MAX_BYTES = 15_000
TIMEOUT_SECONDS = 20


def build(node: Path) -> None:
    """Compile the package, unless that was done with the same sources."""
    sources = sorted([*KIT.rglob("src/**/*.*"), KIT / "tsconfig.json", KIT / "package-lock.json", KIT / "size.mjs"])
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = DIST / ".built"
    with InterProcessLock(LOCKS / "kit.lock"):
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        for command in (["node_modules/typescript/bin/tsc"], ["size.mjs", "--write-manifest"]):
            compiled = subprocess.run([str(node), *command], cwd=KIT, capture_output=True, text=True, check=False)
            assert compiled.returncode == 0, compiled.stdout + compiled.stderr
        stamp.write_text(wanted)


@pytest.fixture(scope="session")
def node() -> Path:
    """The path of Node, with the package built."""
    found = installed(KIT)
    build(found)
    return found


@pytest.fixture
async def shop(shopper: Client) -> Shop:
    user = await make_user(shopper.database)
    return Shop(shopper.signed_in(user), await make_store(shopper.database, user_id=user))


def address(client: Client) -> str:
    return str(client.http.base_url).rstrip("/") + "/graphql"


def given(shop: Shop, **options: Any) -> str:
    """The options of a driver."""
    access = {"url": address(shop.owner), "token": shop.owner.token, "configId": shop.store}
    return json.dumps({"dist": str(DIST)} | access | options)


@asynccontextmanager
async def page(node: Path, shop: Shop, **options: Any) -> AsyncIterator[Example]:
    """A page with a collection, in a process of its own."""
    command = [str(node), str(DRIVERS / "collection.mjs"), given(shop, **options)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(), limit=2**24)
    try:
        yield Example(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(node: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What a driver prints, by the names of its lines."""
    printed = await lines(node, str(DRIVERS / f"{name}.mjs"), *arguments)
    return {line.pop("name"): line for line in printed}


def titles(line: dict[str, Any]) -> list[str]:
    return [row["title"] for row in line["rows"]]


async def shows(example: Example, *wanted: str) -> None:
    """Wait until the page shows rows with exactly these titles, in this order, and waits for nothing."""

    def is_shown(_: Any) -> bool:
        shown = states(example)[-1:]
        return any(titles(line) == [*wanted] and not line["pending"] for line in shown)

    try:
        await example.until(is_shown)
    except TimeoutError as error:
        raise AssertionError(f"{wanted} were not shown: {states(example)[-1:]} {example.said[-2:]}") from error


async def shows_also(example: Example, title: str) -> None:
    """Wait until a row of the page has this title."""
    await example.until(lambda line: "rows" in line and title in titles(line))


async def reports(example: Example, name: str) -> Any:
    """The result of the write with this name."""
    return await example.until(lambda line: line.get("done") == name)


def states(example: Example) -> list[Any]:
    return [line for line in example.said if "isDoubled" in line]


# ---------------------------------------------------------------------------------------------------- the package


def test_sources_have_no_any(node: Path) -> None:
    typed = [*KIT.glob("src/**/*.ts*"), *DIST.glob("**/*.d.ts")]
    assert len(typed) > 30
    found = [
        f"{path.name}: {line}"
        for path in typed
        for line in path.read_text().splitlines()
        if re.search(r"[:<|&] ?any\b|\bas any\b", line)
    ]
    assert found == []
    assert "@ts-ignore" not in "".join(path.read_text() for path in typed)


def test_generated_types_are_those_of_the_schema(node: Path, tmp_path: Path) -> None:
    written = tmp_path / "generated.ts"
    subprocess.run([str(node), "codegen.mjs", str(written)], cwd=KIT, check=True, capture_output=True)
    assert written.read_text() == (KIT / "src" / "generated.ts").read_text(), "run `npm run generate` in clients/typescript"


def test_api_report_is_up_to_date(node: Path, tmp_path: Path) -> None:
    written = tmp_path / "api-report.txt"
    subprocess.run([str(node), "report.mjs", str(written)], cwd=KIT, check=True, capture_output=True)
    assert written.read_text() == (KIT / "api-report.txt").read_text(), "run `make kit`"


async def test_package_is_small(node: Path) -> None:
    sizes = {line["name"]: line for line in await lines(node, str(KIT / "size.mjs"))}
    assert 5_000 < sizes["core and react"]["loaded"] <= MAX_BYTES
    # The library of the socket, when the first subscription opens.
    assert sizes["core and react"]["later"] < 4_000
    # Unused exports are left out.
    assert sizes["a document alone"]["loaded"] < 200


# ---------------------------------------------------------------------------------------------------- requests


async def test_requests_are_sent_retried_and_refused(node: Path, shop: Shop) -> None:
    for _ in range(2):
        await make_product(shop.owner.database, shop.store)
    seen = await run(node, "requests", given(shop))
    ways = {
        name: [(one["method"], one["hasText"], one["hasHash"]) for one in line["sent"]]
        for name, line in seen.items()
        if "sent" in line
    }
    results = {name: line.get("data", line.get("error")) for name, line in seen.items()}

    assert results["anonymous"] == results["signedIn"] == 1
    assert "authorization" not in seen["anonymous"]["sent"][0]
    assert seen["signedIn"]["sent"][0]["authorization"] == f"Bearer {shop.owner.token}"
    assert ways["anonymous"] == [("POST", True, False)]

    # By hash, then with the text; from then on by hash alone.
    assert ways["persistedFirst"] in ([("GET", False, True), ("POST", True, True)], [("GET", False, True)])
    assert ways["persistedAgain"] == [("GET", False, True)]
    assert results["persistedFirst"] == results["persistedAgain"] == 1

    assert [one["size"] for one in seen["batch"]["sent"]] == [4]
    *counts, refused = results["batch"]
    assert counts == [1, 2, 1] and (refused["className"], refused["field"]) == ("BadUserInputError", "first")

    # Three failures of three kinds, all under one request id.
    assert results["retried"] == 1 and len(seen["retried"]["sent"]) == 4 and seen["retried"]["ids"] == 1
    assert results["retryAfter"] == 1 and seen["retryAfter"]["gaps"][0] >= 1000
    assert results["givenUp"]["className"] == "ServerError" and len(seen["givenUp"]["sent"]) == 2
    # A mutation is sent again only if that is safe.
    assert results["mutationWithoutKey"]["className"] == "NetworkError" and len(ways["mutationWithoutKey"]) == 1
    assert results["mutationWithKey"] == "Once" and len(ways["mutationWithKey"]) == 4
    assert results["timeout"]["className"] == "NetworkError"
    assert results["aborted"]["className"] == "RangeError"

    assert {
        name: (results[name]["className"], results[name]["code"]) for name in ("badInput", "badDocument", "badToken", "forbidden")
    } == {
        "badInput": ("BadUserInputError", "BAD_USER_INPUT"),
        "badDocument": ("BadRequestError", "GRAPHQL_VALIDATION_FAILED"),
        "badToken": ("UnauthenticatedError", "UNAUTHENTICATED"),
        "forbidden": (results["forbidden"]["className"], results["forbidden"]["code"]),
    }
    assert results["forbidden"]["className"] in ("UnauthenticatedError", "ForbiddenError")
    assert len(ways["badInput"]) == len(ways["badDocument"]) == 1 and len(ways["badToken"]) == 2
    assert results["newToken"] == 1 and seen["tokens"]["tokens"] == [False, True]
    assert all(results[name]["hasRequestId"] for name in ("badInput", "badDocument", "badToken", "forbidden"))

    assert results["documentNode"] == {"__typename": "Query"}
    assert results["withoutText"]["className"] == "TypeError"
    assert [low <= delay <= 2 * low for delay, low in zip(seen["tokens"]["delays"], (125, 250, 500, 15_000), strict=True)] == [
        True
    ] * 4
    assert 58_000 < seen["tokens"]["date"] <= 60_000


async def test_documents_are_trusted(node: Path, postgres: str, template: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"trusted_documents": "only", "trusted_manifests": str(DIST / "documents.json")}
    async with serving(fresh(postgres, template), tmp_path, **options) as client:
        user = await make_user(client.database)
        own = Shop(client.signed_in(user), await make_store(client.database, user_id=user))
        await make_product(client.database, own.store)
        seen = await run(node, "requests", given(own), "trusted")
    assert seen["trusted"]["data"] == 1
    assert [(one["method"], one["hasText"], one["hasId"]) for one in seen["trusted"]["sent"]] == [("GET", False, True)]
    assert seen["trustedWrite"]["data"] == 1
    assert seen["trustedUnknown"]["error"]["code"] == "PERSISTED_QUERY_NOT_IN_LIST"
    assert seen["trustedFeed"]["event"] == "ProductCreated"


# ---------------------------------------------------------------------------------------------------- live


@pytest.mark.parametrize("transport", ["websocket", "sse", "polling"])
@pytest.mark.parametrize("is_filtered", [False, True])
async def test_collection_follows_the_feed(node: Path, shop: Shop, transport: str, is_filtered: bool) -> None:
    old = await shop.create("Old")
    options = {"filter": {"maxPrice": "100"}} if is_filtered else {}
    live = {"transports": [transport], "pollIntervalMs": 100}
    async with network(shop.owner) as (cables, url), page(node, shop, url=url, live=live, **options) as one:
        await shows(one, "Old")
        new = await shop.create("New")
        await shows(one, "New", "Old")
        cables.cut()
        await shop.update(old, title="Older")
        await shop.create("Missed")
        await shop.delete(new)
        await asyncio.sleep(0.2)
        cables.restore()
        await shows(one, "Missed", "Older")
        if is_filtered:
            await shop.update(old, price="1000")
            await shows(one, "Missed")
        # What was missed is no longer retained.
        cables.cut()
        await shop.create("Lost")
        await shop.forget_log()
        await asyncio.sleep(0.2)
        cables.restore()
        await shows(one, *["Lost", "Missed", "Older"][: 2 if is_filtered else 3])
        await one.stop()
    assert {line["transport"] for line in states(one)} == {transport}
    assert not any(line["isDoubled"] for line in states(one))


async def test_socket_falls_back_to_events_and_then_to_polling(node: Path, shop: Shop) -> None:
    """A network that lets through neither WebSockets nor streams, and then streams, too."""
    await shop.create("Old")
    port = shop.owner.http.base_url.port or 0
    for refused, transport in ((rb"upgrade: websocket", "sse"), (rb"upgrade: websocket|text/event-stream", "polling")):
        cables = Refusing(port, refused)
        door = await asyncio.start_server(cables.carry, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}/graphql"
        async with page(node, shop, url=url, live={"pollIntervalMs": 100}) as one:
            await one.until(lambda line: line.get("state") == "live")
            title = f"By {transport}"
            await shop.create(title)
            await shows_also(one, title)
            assert states(one)[-1]["transport"] == transport
            await one.stop()
        cables.cut()
        door.close()


class Refusing(Network):
    """A network that drops connections which ask for what it does not know."""

    def __init__(self, port: int, refused: bytes) -> None:
        super().__init__(port)
        self._refused = re.compile(refused, re.IGNORECASE)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read the first request, and pass it on or not."""
        # One request for each connection: the head decides.
        head = await reader.readuntil(b"\r\n\r\n")
        if self._refused.search(head):
            writer.transport.abort()
            return
        passed = asyncio.StreamReader()
        passed.feed_data(re.sub(rb"(?i)connection: keep-alive", b"connection: close", head))

        async def feed() -> None:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    passed.feed_data(data)
            passed.feed_eof()

        await asyncio.gather(feed(), super().carry(passed, writer))


async def test_shopper_without_token_sees_unpublishing(node: Path, shop: Shop) -> None:
    await shop.create("Old")
    async with page(node, shop, token=None) as one:
        await shows(one, "Old")
        # The socket may be open before the subscription is: an event shows that it is.
        await shop.create("New")
        await shows(one, "New", "Old")
        await shop.owner.ask(
            "mutation($i: UnpublishConfigInput!) { unpublishConfig(input: $i) { userErrors { message } } }", i={"id": shop.store}
        )
        await shows(one)
        await shop.owner.ask(
            "mutation($i: PublishConfigInput!) { publishConfig(input: $i) { userErrors { message } } }", i={"id": shop.store}
        )
        await shows(one, "New", "Old")
        await one.stop()


async def test_shopper_returns_to_a_store_that_is_not_open(node: Path, shop: Shop) -> None:
    unpublish = "mutation($i: UnpublishConfigInput!) { unpublishConfig(input: $i) { userErrors { message } } }"
    await shop.create("Old")
    async with network(shop.owner) as (cables, url), page(node, shop, token=None, url=url) as one:
        await shows(one, "Old")
        cables.cut()
        await shop.owner.ask(unpublish, i={"id": shop.store})
        cables.restore()
        await shows(one)
        await one.stop()
    assert not any("failed" in line for line in one.said)


async def test_refused_token_ends_the_collection(node: Path, shop: Shop) -> None:
    async with page(node, shop, token="nonsense") as one:
        await one.until(lambda line: line.get("failed") == "UNAUTHENTICATED")


# ---------------------------------------------------------------------------------------------------- writes


async def test_refused_write_takes_back_only_itself(node: Path, shop: Shop) -> None:
    for title in "ABD":
        await shop.create(title)
    async with network(shop.owner) as (cables, url), page(node, shop, url=url) as one:
        await shows(one, "D", "B", "A")
        cables.cut()
        one.tell(name="good", update={"title": "A", "patch": {"price": "7.00"}})
        one.tell(name="bad", update={"title": "B", "patch": {"title": ""}})
        one.tell(name="other", update={"title": "A", "patch": {"vendor": "Oak"}})
        one.tell(name="new", create={"title": "C", "price": "1.00"})
        one.tell(name="lost", create={"title": "", "price": "1.00"})
        one.tell(name="gone", remove="D")
        await one.until(lambda line: line.get("pending") == 6 and titles(line) == ["", "C", "", "A"])
        cables.restore()
        results = {name: await reports(one, name) for name in ("good", "bad", "other", "new", "lost", "gone")}
        await shows(one, "C", "B", "A")
        await one.stop()
    assert {name: line.get("error") for name, line in results.items()} == {
        "good": None, "bad": "INVALID_INPUT", "other": None, "new": None, "lost": "INVALID_INPUT", "gone": None,
    }  # fmt: skip
    assert {(row["title"], row["price"]) for row in (await shop.products()).values()} == {
        ("A", "7.00"),
        ("B", "5.00"),
        ("C", "1.00"),
    }


async def test_conflicts_are_merged_refused_or_resolved(node: Path, shop: Shop) -> None:
    ids = {title: await shop.create(title) for title in ("Merged", "Same", "Failed", "Resolved", "Given up")}
    async with network(shop.owner) as (cables, url), page(node, shop, url=url) as one:
        await shows(one, *reversed(ids))
        cables.cut()
        # Others change the titles, and the page does not know.
        for title, id_ in ids.items():
            await shop.update(id_, **({"title": f"{title} by others"} if title != "Merged" else {"vendor": "By others"}))
        changes = {
            "merged": {"title": "Merged", "patch": {"price": "7.00"}},
            "same": {"title": "Same", "patch": {"title": "Mine"}, "onConflict": "merge"},
            "failed": {"title": "Failed", "patch": {"price": "7.00"}, "onConflict": "fail"},
            "resolved": {"title": "Resolved", "patch": {"title": "mine"}, "onConflict": "join"},
            "givenUp": {"title": "Given up", "patch": {"title": "mine"}, "onConflict": "giveUp"},
        }
        for name, change in changes.items():
            one.tell(name=name, update=change)
        await one.until(lambda line: line.get("pending") == 5)
        cables.restore()
        results = {name: await reports(one, name) for name in changes}
        await shows(one, "Given up by others", "Resolved by others & mine", "Failed by others", "Same by others", "Merged")
        await one.stop()
    assert {name: (line.get("error"), line.get("theirs")) for name, line in results.items()} == {
        "merged": (None, None),
        "same": ("STALE_VERSION", "Same by others"),
        "failed": ("STALE_VERSION", "Failed by others"),
        "resolved": (None, None),
        "givenUp": ("STALE_VERSION", "Given up by others"),
    }
    # A conflict about other fields keeps both.
    query = "query($id: ID!) { product(by: { id: $id }) { vendor price } }"
    assert (await shop.owner.ask(query, id=ids["Merged"]))["product"] == {"vendor": "By others", "price": "7.00"}


async def test_bulk_writes_report_each_row(node: Path, shop: Shop) -> None:
    async with page(node, shop) as one:
        await shows(one)
        one.tell(name="made", createMany=[{"title": title, "price": "1.00"} for title in ("A", "", "C")])
        made = await reports(one, "made")
        await one.until(lambda line: "rows" in line and set(titles(line)) == {"A", "C"})
        one.tell(name="changed", updateMany=[{"title": "A", "patch": {"price": "2.00"}}, {"title": "C", "patch": {"title": ""}}])
        changed = await reports(one, "changed")
        one.tell(name="removed", removeMany=["A", "C"])
        removed = await reports(one, "removed")
        await shows(one)
        await one.stop()
    assert (len(made["ids"]), made["refusals"], len(changed["ids"]), changed["refusals"]) == (2, [1], 1, [1])
    assert len(removed["deletedIds"]) == 2 and await shop.products() == {}
    assert not any(line["isDoubled"] for line in states(one))


async def test_offline_writes_survive_a_reload_and_arrive_once_in_order(node: Path, shop: Shop) -> None:
    await shop.create("Old")
    async with network(shop.owner) as (cables, url), page(node, shop, url=url) as one:
        await shows(one, "Old")
        # The answer to the first one is lost, so that it is sent twice.
        cables.has_answers = False
        one.tell(name="first", create={"title": "First", "price": "1.00"})
        await shop.has("First")
        cables.cut()
        one.tell(name="second", create={"title": "Second", "price": "2.00"})
        one.tell(name="third", update={"title": "Second", "patch": {"price": "3.00"}})
        one.tell(name="fourth", update={"title": "First", "patch": {"price": "4.00"}})
        await one.until(lambda line: line.get("pending") == 4 and len(line["rows"]) == 3)
        one.tell(reload=True)
        said = len(one.said)
        await one.until(
            lambda line: len(one.said) > said and line.get("pending") == 4 and titles(line) == ["Second", "First", "Old"]
        )
        cables.restore()
        await shows(one, "Second", "First", "Old")
        await one.stop()
    assert not any(line["isDoubled"] for line in states(one))
    assert {(row["title"], row["price"]) for row in (await shop.products()).values()} == {
        ("Second", "3.00"),
        ("First", "4.00"),
        ("Old", "5.00"),
    }
    async with shop.owner.database.transaction() as connection:
        rows = await (
            await connection.raw.execute(
                "SELECT client_mutation_id FROM changes WHERE config_id = %s ORDER BY position", [shop.store]
            )
        ).fetchall()
    sent = {line["sent"]: line["id"] for line in one.said if "sent" in line}
    assert [row[0] for row in rows[1:]] == [sent[name] for name in ("first", "second", "third", "fourth")]


@pytest.mark.parametrize(("count", "cuts", "pause"), [(30, 8, 40), pytest.param(100, 50, 120, marks=pytest.mark.soak)])
async def test_two_pages_agree_after_cuts_and_a_killed_server(
    node: Path, postgres: str, template: str, tmp_path: Path, count: int, cuts: int, pause: int
) -> None:
    """Two pages write at random through lost connections and a killed server. Both, a new one and Postgres agree in the end."""
    url = fresh(postgres, template)
    async with Database(url) as database, httpx.AsyncClient(verify=load_tls_context()) as http:
        user = await make_user(database)
        store = await make_store(database, user_id=user)
        for number in range(5):
            await make_product(database, store, title=f"Old {number}")
        own = Shop(Client(http, database, token_of(user)), store)
        with processes.running(url, tmp_path) as first, processes.running(url, tmp_path) as second:
            async with network_to(first.port) as (cables, through):
                rows, writes = await _write_through_faults(node, own, cables, through, [first, second], count, cuts, pause)
            stored = await _read_rows(database, store)
            written = await _count_changes(database, store)
    assert stored == rows
    # Each write once.
    assert {id_: number for id_, number in written.items() if number > 1} == {}
    done = {write["id"] for write in writes if write["error"] is None and write["position"] is not None}
    assert done == written.keys() and len(done) > count
    assert {write["error"] for write in writes} <= {None, "STALE_VERSION", "NOT_FOUND"}


async def _write_through_faults(
    node: Path, own: Shop, cables: Network, url: str, servers: Sequence[processes.Server], count: int, cuts: int, pause: int
) -> tuple[dict[str, Any], list[Any]]:
    """The rows on which all pages agree, and the writes of both."""
    options = {"url": url, "isBrief": True, "token": own.owner.token}
    # `given` asks for the address of the server, which is the network here.
    async with page(node, own, **options) as one, page(node, own, **options) as two:
        for number, tab in enumerate((one, two), 1):
            await tab.until(lambda line: line.get("state") == "live")
            tab.tell(random={"name": f"Tab {number}", "count": count, "seed": 4711 * number, "pauseMs": pause})
        for number in range(cuts):
            await asyncio.sleep(pause / 1000 * count / cuts)
            cables.cut()
            if number == cuts // 2:
                servers[0].process.kill()
                cables.port = servers[1].port
            await asyncio.sleep(0.02)
            cables.restore()
        results = [await _finish(tab) for tab in (one, two)]
        async with page(node, own, **options) as three:
            await three.until(lambda line: line.get("state") == "live")
            position = (await _ask_for_rows(three))["position"]
            dumps = [await _ask_for_rows(tab, position) for tab in (one, two, three)]
        for tab in (one, two):
            assert not any(line["isDoubled"] for line in states(tab))
    rows: list[dict[str, Any]] = [
        {row["id"]: (row["title"], row["price"], row["version"]) for row in dump["dump"]} for dump in dumps
    ]
    assert rows[0] == rows[1] == rows[2] and [dump["pending"] for dump in dumps] == [0, 0, 0]
    return rows[0], [write for result in results for write in result["writes"]]


async def _finish(tab: Example) -> Any:
    async with asyncio.timeout(240):
        while not any("finished" in line for line in tab.said):
            with suppress(TimeoutError):
                await tab.until(lambda line: "finished" in line)
    return next(line for line in tab.said if "finished" in line)


async def _ask_for_rows(tab: Example, position: str | None = None) -> Any:
    while True:
        tab.tell(dump=True)
        dump = await tab.until(lambda line: "dump" in line)
        if position is None or int(dump["position"] or 0) >= int(position):
            return dump
        tab.said.append({})
        await asyncio.sleep(0.05)


async def _read_rows(database: Database, store: str) -> dict[str, Any]:
    query = "SELECT id::text, title, price::text, version FROM products WHERE config_id = %s"
    async with database.transaction() as connection:
        rows = await (await connection.raw.execute(query, [store])).fetchall()
    return {row[0]: tuple(row[1:]) for row in rows}


async def _count_changes(database: Database, store: str) -> Counter[str]:
    async with database.transaction() as connection:
        rows = await (
            await connection.raw.execute("SELECT client_mutation_id FROM changes WHERE config_id = %s", [store])
        ).fetchall()
    return Counter(row[0] for row in rows)


# ---------------------------------------------------------------------------------------------------- hooks, TanStack DB


async def test_hooks_read_write_prefetch_follow_and_restore(node: Path, shop: Shop) -> None:
    for number in range(5):
        await make_product(shop.owner.database, shop.store, title=f"Lamp {number}", category="Lamps")
    lamps = [f"Lamp {number}" for number in range(5)]
    newest = lamps[::-1]
    seen = await run(node, "react", given(shop))
    assert {name: line["failed"] for name, line in seen.items() if "failed" in line} == {}
    assert seen["pages"] == {"first": lamps[:2], "all": lamps, "totalCount": 5}

    optimistic = seen["optimistic"]
    assert optimistic["shown"][:3] == [["", "9.00", "create"], ["Hopeful", "9.00", "create"], ["Lamp 4", "77.00", "update"]]
    assert optimistic["after"][:3] == [["Hopeful", "9.00", 1], ["Lamp 4", "77.00", 2], ["Lamp 3", "10.00", 1]]
    assert (optimistic["doubled"], optimistic["missing"], optimistic["isGone"]) == (False, 0, True)
    assert optimistic["toasts"] == ["INVALID_INPUT"] and optimistic["last"] == newest

    assert seen["prefetch"] == {"hovered": 1, "opened": 0, "isShownAtOnce": True, "variants": 1}
    assert seen["prefetchCategory"] == {"requests": 0, "titles": newest}
    assert seen["live"] == {"doubled": False}
    assert seen["reads"] == {
        "facets": [["Lamps", 5]],
        "categories": ["Lamps"],
        "found": newest,
        "suggested": newest,
        "requests": 2,
    }
    assert seen["refusals"] == {"code": "BAD_USER_INPUT", "className": "BadUserInputError", "field": "first", "requests": 1}

    offline = seen["offline"]
    assert offline["shown"] == newest and offline["doubled"] is False
    assert offline["withPending"] == offline["sent"] == ["Offline 3", "Offline 2", "Offline 1", *newest]
    assert (
        set(by_id([row for row in (await shop.products()).values() if "Offline" in row["title"]]))
        and len(await shop.products()) == 8
    )


async def test_tanstack_db_collection_follows_and_writes(node: Path, shop: Shop) -> None:
    await shop.create("Old")
    seen = await run(node, "tanstack-db", given(shop))
    assert seen["loaded"] == {"rows": ["Old 5.00"]}
    assert seen["inserted"] == {"atOnce": ["Mine 5.00", "Old 5.00"], "after": ["Mine 5.00", "Old 5.00"], "isReplaced": True}
    assert seen["refused"] == {"code": "INVALID_INPUT", "rows": ["Mine 6.00", "Old 5.00"]}
    assert seen["followed"] == {"rows": ["Old 5.00", "Theirs 7.00"], "doubled": False, "missing": 0}
