"""The response cache: cache keys, validation, ETags, eviction, single-flight, and several processes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from graphql import ExecutionResult
from pydantic import SecretStr

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.core.settings import Settings
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.feed.positions import LogPositions
from storefront.serving.cache.response_cache import CachedResponse, CachePolicy, ResponseCache
from tests.client import Client, token_of
from tests.conftest import fresh, serving
from tests.factories import count_statements, make_product, make_store, make_user
from tests.feed.processes import running

GRAPHQL_JSON = "application/graphql-response+json"
NAME = "query Name($slug: String!) { config(by: {slug: $slug}) { id storeName position } }"
SHELF = "query Shelf($c: ID!, $q: String) { products(configId: $c, search: $q) { corrected: correctedSearch nodes { title } } }"
RENAME = """mutation($c: ID!, $name: String!) { updateConfig(input: {id: $c, storeName: $name}) {
  config { storeName } userErrors { message } } }"""
CREATE = """mutation($c: ID!, $title: String!) { createProduct(input: {configId: $c, title: $title, price: "1.00"}) {
  userErrors { message } } }"""
HIT, MISS = "storefront; hit", "storefront; fwd=miss"


@asynccontextmanager
async def keeping(url: str, folder: Path, **options: Any) -> AsyncIterator[Client]:
    """A server with a response cache that polls no positions, so that statements can be counted."""
    given = {"response_cache_bytes": 1_000_000, "poll_interval": 60}
    async with serving(url, folder, **{**given, **options}) as shopper:
        yield shopper


@pytest.fixture(scope="module")
def url(postgres: str, template: str) -> str:
    """The database of the server that most tests share."""
    return fresh(postgres, template)


@pytest_asyncio.fixture(scope="module")
async def cached(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with keeping(url, tmp_path_factory.mktemp("cached")) as shopper:
        yield shopper


@pytest.fixture
async def shop(cached: Client) -> tuple[str, Client]:
    """A store that is called Shop, with its id for a slug, and its owner."""
    owner, store = await make_user(cached.database), str(uuid7())
    await make_store(cached.database, id=store, user_id=owner, slug=store, store_name="Shop")
    return store, cached.signed_in(owner)


async def get(
    client: Client, query: str, accept: str = "*/*", headers: dict[str, str] | None = None, **variables: Any
) -> httpx.Response:
    signed = {"authorization": f"Bearer {client.token}"} if client.token else {}
    parameters = {"query": query, "variables": json.dumps(variables)}
    return await client.http.get("/graphql", params=parameters, headers={"accept": accept, **signed, **(headers or {})})


def name(response: httpx.Response) -> Any:
    return response.json()["data"]["config"]["storeName"]


# ------------------------------------------------------------------------------------------------- answers


async def test_cache_hit_needs_no_statement(cached: Client, shop: Any) -> None:
    store, _ = shop
    first = await get(cached, NAME, slug=store)
    with count_statements(cached.database) as statements:
        again = await get(cached, NAME, slug=store)
    assert not statements
    assert (first.headers["cache-status"], again.headers["cache-status"]) == (MISS, HIT)
    assert again.content == first.content
    same = ("etag", "cache-control", "vary", "content-type")
    assert [again.headers[header] for header in same] == [first.headers[header] for header in same]
    assert again.headers["cache-control"] == "public, max-age=0, must-revalidate"
    assert again.headers["vary"] == "accept, authorization"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


async def test_cache_key_ignores_method_and_variable_order(cached: Client, shop: Any) -> None:
    store, _ = shop
    assert (await get(cached, SHELF, c=store, q="x")).headers["cache-status"] == MISS
    assert (await get(cached, SHELF, q="x", c=store)).headers["cache-status"] == HIT
    assert (await cached.post(SHELF, q="x", c=store)).headers["cache-status"] == HIT


async def test_cache_key_has_document_variables_and_type(cached: Client, shop: Any) -> None:
    store, _ = shop
    two = "query A($slug: String!) { config(by: {slug: $slug}) { id } } query B { __typename }"
    bodies: list[dict[str, Any]] = [
        {"query": NAME, "variables": {"slug": store}},
        {"query": NAME + " ", "variables": {"slug": store}},
        {"query": NAME, "variables": {"slug": store, "more": 1}},
        {"query": two, "operationName": "A", "variables": {"slug": store}},
        {"query": two, "operationName": "B"},
    ]
    for accept in ("application/json", GRAPHQL_JSON):
        for body in bodies:
            answers = [await cached.http.post("/graphql", json=body, headers={"accept": accept}) for _ in range(2)]
            assert [answer.headers["cache-status"] for answer in answers] == [MISS, HIT]
            assert {answer.headers["content-type"] for answer in answers} == {f"{accept}; charset=utf-8"}
    assert {"id"} == (await cached.http.post("/graphql", json=bodies[3])).json()["data"]["config"].keys()


async def test_write_invalidates_cached_response(cached: Client, shop: Any) -> None:
    store, owner = shop
    for number in range(5):
        for _ in range(2):
            assert name(await get(cached, NAME, slug=store)) == (f"Shop {number}" if number else "Shop")
        await owner.ask(RENAME, c=store, name=f"Shop {number + 1}")


# ----------------------------------------------------------------------------------------------------- ETags


async def test_fresh_etag_is_answered_304(cached: Client, shop: Any) -> None:
    store, owner = shop
    first = await get(cached, NAME, slug=store)
    tag = first.headers["etag"]
    with count_statements(cached.database) as statements:
        for shown in (tag, f'"other", {tag}', tag.removeprefix("W/")):
            same = await get(cached, NAME, slug=store, headers={"if-none-match": shown})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
            assert same.headers["cache-control"] == first.headers["cache-control"]
            assert same.headers["vary"] == first.headers["vary"]
    assert not statements
    await owner.ask(RENAME, c=store, name="Renamed")
    changed = await get(cached, NAME, slug=store, headers={"if-none-match": tag})
    assert (changed.status_code, name(changed)) == (200, "Renamed")
    assert changed.headers["etag"] != tag


async def test_etag_survives_restart_at_one_statement(url: str, tmp_path: Path, cached: Client, shop: Any) -> None:
    store, _ = shop
    tag = (await get(cached, NAME, slug=store)).headers["etag"]
    # Also one that keeps nothing.
    async with keeping(url, tmp_path, response_cache_bytes=0) as other:
        for expected in (1, 0):
            with count_statements(other.database) as statements:
                same = await get(other, NAME, slug=store, headers={"if-none-match": tag})
            assert (same.status_code, len(statements)) == (304, expected)
        assert (await get(other, NAME, slug=store)).headers["etag"] == tag
    async with keeping(url, tmp_path, cache="strict") as strict:
        for _ in range(2):
            with count_statements(strict.database) as statements:
                same = await get(strict, NAME, slug=store, headers={"if-none-match": tag})
            assert (same.status_code, len(statements)) == (304, 1)


async def test_etag_is_bound_to_query_and_unforgeable(cached: Client, shop: Any) -> None:
    store, _ = shop
    tag = (await get(cached, NAME, slug=store)).headers["etag"]
    mac, scopes = tag.removeprefix('W/"').removesuffix('"').split(".")
    shown = [tag.replace(mac, "0" * 24), f'W/"{mac}.{scopes}0"', f'W/"{mac}."', '""', '"*"', "x" * 10_000, '"' * 10_000]
    for made_up in shown:
        assert (await get(cached, NAME, slug=store, headers={"if-none-match": made_up})).status_code == 200
    for other in ({"query": NAME + "#"}, {"accept": GRAPHQL_JSON}):
        asked = {"query": NAME, "slug": store, **other}
        assert (await get(cached, **asked, headers={"if-none-match": tag})).status_code == 200
    posted = {"query": NAME, "variables": {"slug": store}}
    assert (await cached.http.post("/graphql", json=posted, headers={"if-none-match": tag})).status_code == 200


async def test_response_without_dependencies_stays_fresh(cached: Client) -> None:
    first = await get(cached, "{ __schema { queryType { name } } }")
    again = await get(cached, "{ __schema { queryType { name } } }", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304


async def test_response_with_many_scopes_has_no_etag(cached: Client) -> None:
    stores = [await make_store(cached.database) for _ in range(17)]
    for count, has_tag in ((16, True), (17, False)):
        fields = " ".join(f'a{number}: config(by: {{id: "{store}"}}) {{ id }}' for number, store in enumerate(stores[:count]))
        first, again = [await get(cached, f"{{ {fields} }}") for _ in range(2)]
        assert again.headers["cache-status"] == HIT
        assert ("etag" in first.headers) is has_tag
        assert (first.headers["cache-control"] == "no-store") is not has_tag


@pytest.mark.parametrize(
    ("options", "control"),
    [
        ({}, "public, max-age=0, must-revalidate"),
        ({"cache_max_age": 5, "cache_shared_max_age": 60}, "public, max-age=5, s-maxage=60, must-revalidate"),
        ({"cache_stale_while_revalidate": 30}, "public, max-age=0, stale-while-revalidate=30"),
    ],
)
def test_cache_control_is_a_setting(options: dict[str, Any], control: str) -> None:
    assert Settings(**options).cache_control() == control


# -------------------------------------------------------------------------------------------------- for whom


async def test_signed_in_viewer_bypasses_the_cache(cached: Client, shop: Any) -> None:
    store, owner = shop
    await make_product(cached.database, store, title="Draft", status="inactive")
    for _ in range(2):
        mine = await get(owner, SHELF, c=store)
        assert [node["title"] for node in mine.json()["data"]["products"]["nodes"]] == ["Draft"]
        assert mine.headers["cache-control"] == "no-store"
        assert not {"etag", "cache-status"} & mine.headers.keys()
    theirs = await get(cached, SHELF, c=store)
    assert (theirs.json()["data"]["products"]["nodes"], theirs.headers["cache-status"]) == ([], MISS)
    shown = {"if-none-match": theirs.headers["etag"]}
    assert (await get(owner, SHELF, c=store, headers=shown)).status_code == 200


async def test_invalid_credentials_are_refused_despite_cache(cached: Client, shop: Any) -> None:
    store, _ = shop
    tag = (await get(cached, NAME, slug=store)).headers["etag"]
    for token in ("Bearer nonsense", "Basic x", "Bearer"):
        refused = await get(cached, NAME, slug=store, headers={"authorization": token, "if-none-match": tag})
        assert (refused.status_code, refused.headers["cache-control"]) == (401, "no-store")


async def test_session_cookies_bypass_cache_other_cookies_do_not(empty_url: str, tmp_path: Path) -> None:
    async with keeping(
        empty_url, tmp_path, authjs_secret=SecretStr("a secret"), allowed_origins="https://shop.example"
    ) as shopper:
        await make_store(shopper.database, slug="shop")
        await get(shopper, NAME, slug="shop")
        plain = await get(shopper, NAME, slug="shop", headers={"cookie": "_ga=1; theme=dark"})
        assert (plain.headers["cache-status"], plain.headers["vary"]) == (HIT, "accept, authorization, cookie, Origin")
        session = await get(shopper, NAME, slug="shop", headers={"cookie": "authjs.session-token=x"})
        assert (session.status_code, session.headers["cache-control"]) == (403, "no-store")


@pytest.mark.parametrize(
    "query",
    [
        "{ me { id } }",
        '{ config(by: {slug: "SHOP"}) { owner { email } } }',
        "{ configs { nodes { id } } }",
        "{ configs { totalCount } }",
        '{ config(by: {slug: "nobody"}) { id } }',
        '{ product(by: {id: "01900000-1234-7000-8000-00000000000a"}) { id } }',
    ],
)
async def test_volatile_and_personal_responses_are_not_cached(cached: Client, shop: Any, query: str) -> None:
    store, _ = shop
    for _ in range(2):
        answer = await get(cached, query.replace("SHOP", store))
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert "etag" not in answer.headers
        assert answer.headers.get("cache-status") in (None, MISS)


async def test_errors_and_mutations_are_not_cached(cached: Client, shop: Any) -> None:
    store, owner = shop
    unknown = "018f0000-0000-7000-8000-00000000000a"
    for query in (
        "{ nonsense }",
        "{",
        f'{{ config(by: {{id: "{store}"}}) {{ storeName }} products(configId: "{unknown}") {{ nodes {{ id }} }} }}',
        f'{{ products(configId: "{store}", first: 1000) {{ nodes {{ id }} }} }}',
    ):
        ids = set()
        for _ in range(2):
            answer = await get(cached, query)
            ids.add(answer.json()["errors"][0]["extensions"]["requestId"])
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
        assert len(ids) == 2
    made = await owner.post(CREATE, c=store, title="New")
    assert made.headers["cache-control"] == "no-store"
    track = "mutation($c: ID!) { trackEvents(input: {configId: $c, events: [], consent: true}) { recorded } }"
    for _ in range(2):
        assert (await cached.post(track, c=store)).headers["cache-control"] == "no-store"


async def test_cached_absence_ends_with_creation(cached: Client, shop: Any) -> None:
    store, owner = shop
    publish = "mutation($c: ID!) { publishConfig(input: {id: $c}) { userErrors { message } } }"
    unpublish = "mutation($c: ID!) { unpublishConfig(input: {id: $c}) { userErrors { message } } }"
    slug = "mutation($c: ID!, $slug: String!) { updateConfig(input: {id: $c, slug: $slug}) { userErrors { message } } }"
    create = 'mutation { createConfig(input: {storeName: "B", slug: "b", isPublished: true}) { userErrors { message } } }'

    async def found(slug: str) -> str | None:
        answers = [(await get(cached, NAME, slug=slug)).json()["data"]["config"] for _ in range(2)]
        assert answers[0] == answers[1]
        return answers[0]["storeName"] if answers[0] else None

    assert (await found(store), await found("b")) == ("Shop", None)
    await owner.ask(unpublish, c=store)
    assert await found(store) is None
    await owner.ask(publish, c=store)
    assert await found(store) == "Shop"
    await owner.ask(create)
    assert await found("b") == "B"
    await owner.ask(slug, c=store, slug="c")
    assert (await found(store), await found("c")) == ("Shop", "Shop")
    # Another store takes the former slug over, whose log the cached response does not depend on.
    await owner.ask(create.replace('"b"', f'"{store}"'))
    assert (await found(store), await found("c")) == ("B", "Shop")
    await owner.ask("mutation($c: ID!) { deleteConfig(input: {id: $c}) { userErrors { message } } }", c=store)
    assert await found("c") is None


async def test_search_corrected_with_stale_vocabulary_is_not_cached(cached: Client, shop: Any) -> None:
    store, owner = shop
    # A correction needs two products.
    for title in ("Lantern", "Big lantern"):
        await owner.ask(CREATE, c=store, title=title)
    assert (await get(cached, SHELF, c=store, q="lantren")).json()["data"]["products"]["corrected"] == "lantern"
    assert (await get(cached, SHELF, c=store, q="lantren")).headers["cache-status"] == HIT
    for title in ("Carpet", "Big carpet"):
        await owner.ask(CREATE, c=store, title=title)
    # The words that are known are a change behind, for some seconds yet.
    first, again = [await get(cached, SHELF, c=store, q="carpte") for _ in range(2)]
    assert [one.headers["cache-status"] for one in (first, again)] == [MISS, MISS]
    assert first.headers["cache-control"] == "no-store"


async def test_external_sql_invalidates_as_documented(url: str, tmp_path: Path, cached: Client, shop: Any) -> None:
    store, _ = shop
    [statement] = re.findall(
        r"```sql\n(INSERT.*?)```", (Path(__file__).parents[3] / "docs" / "caching.md").read_text(), re.DOTALL
    )
    async with keeping(url, tmp_path, poll_interval=0.2) as polling:
        assert [name(await get(polling, NAME, slug=store)) for _ in range(2)] == ["Shop", "Shop"]
        async with cached.database.transaction() as connection:
            await connection.raw.execute("UPDATE configs SET store_name = 'By hand' WHERE id = %s", [store])
            await connection.raw.execute(statement.replace("<config id>", store).encode())
        async with asyncio.timeout(5):
            while name(await get(polling, NAME, slug=store)) == "Shop":  # noqa: ASYNC110  it is asked over HTTP
                await asyncio.sleep(0.05)


# --------------------------------------------------------------------------------------------------- at once


@asynccontextmanager
async def locked(client: Client, table: str) -> AsyncIterator[None]:
    """Whoever reads the table meanwhile waits."""
    async with client.database.transaction() as connection:
        await connection.raw.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield
        await asyncio.sleep(0.5)


async def test_concurrent_identical_queries_share_one_execution(cached: Client, shop: Any) -> None:
    store, _ = shop
    await make_product(cached.database, store)
    await get(cached, NAME, slug=store)
    with count_statements(cached.database) as kept:
        async with locked(cached, "products"):
            asking = [asyncio.create_task(cached.post(SHELF, c=store)) for _ in range(30)]
        answers = await asyncio.gather(*asking)
    assert len(kept) == 1
    assert {answer.content for answer in answers} == {answers[0].content}


async def test_uncacheable_query_runs_again_once_for_later_callers(database: Database) -> None:
    executed = 0

    async def run(_: Any) -> ExecutionResult:
        nonlocal executed
        executed += 1
        mine = executed
        await asyncio.sleep(0.05)
        return ExecutionResult({"execution": mine})

    def user_value() -> SimpleNamespace:
        return SimpleNamespace(dependencies=None)

    responses = ResponseCache(LogPositions(database, 60), user_value, lambda _: True, CachePolicy(1_000_000, "", b"secret"))
    first = asyncio.create_task(responses.compute(b"key", run))
    await asyncio.sleep(0)
    others = await asyncio.gather(*(responses.compute(b"key", run) for _ in range(30)))
    received = [outcome.body for outcome in (await first, *others) if isinstance(outcome, CachedResponse)]
    assert received == [b'{"data":{"execution":1}}', *[b'{"data":{"execution":2}}'] * 30]


async def test_stale_entries_are_evicted(database: Database) -> None:
    store = await make_store(database)
    positions = LogPositions(database, 60)

    async def fill(prefix: str) -> None:
        await positions.refresh([store])
        position = positions.get_position(store)
        context = SimpleNamespace(dependencies={store: position})
        cache._make_context = lambda: context
        for number in range(20):
            assert isinstance(await cache.compute(f"{prefix} {number}".encode(), run), CachedResponse)

    async def run(_: Any) -> ExecutionResult:
        return ExecutionResult({"x": 1})

    cache = ResponseCache(positions, SimpleNamespace, lambda _: True, CachePolicy(1_000_000, "", b"secret"))
    await fill("old")
    assert cache.count == 20
    async with database.transaction() as connection:
        await log.append_entries(connection, store, [LogEntry("config_updated", store)])
    await fill("new")
    # No request can get the old ones any more.
    assert cache.count == 20
    assert [key for key in cache._entries if key.startswith(b"old")] == []


async def test_query_after_write_ignores_earlier_execution(cached: Client, shop: Any) -> None:
    """The execution has read the store and waits for its products, which are locked, while the store is renamed."""
    store, owner = shop
    query = "query($slug: String!) { config(by: {slug: $slug}) { storeName products { nodes { title } } } }"
    await owner.ask(RENAME, c=store, name="Shop")
    async with locked(cached, "products"):
        with count_statements(cached.database) as statements:
            before = asyncio.create_task(get(cached, query, slug=store))
            while not any("FROM products" in statement for statement in statements):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await owner.ask(RENAME, c=store, name="Renamed")
        after = [asyncio.create_task(get(cached, query, slug=store)) for _ in range(3)]
    assert name(await before) == "Shop"
    assert {name(answer) for answer in await asyncio.gather(*after)} == {"Renamed"}
    assert name(await get(cached, query, slug=store)) == "Renamed"


async def test_disconnect_does_not_cancel_shared_execution(cached: Client, shop: Any) -> None:
    store, _ = shop
    async with locked(cached, "products"):
        async with httpx.AsyncClient(base_url=cached.http.base_url) as impatient:
            with pytest.raises(httpx.ReadTimeout):
                await impatient.post("/graphql", json={"query": SHELF, "variables": {"c": store}}, timeout=0.3)
        patient = asyncio.create_task(cached.post(SHELF, c=store))
    assert (await patient).json()["data"]["products"]["nodes"] == []


async def test_cached_responses_are_never_older_than_writes(cached: Client, shop: Any) -> None:
    store, owner = shop
    written, over = 0, asyncio.Event()

    async def write() -> None:
        nonlocal written
        for number in range(1, 41):
            await owner.ask(RENAME, c=store, name=str(number))
            written = number
        over.set()

    async def read() -> int:
        asked = 0
        while not over.is_set():
            least = written
            seen = name(await get(cached, NAME, slug=store))
            assert least <= (0 if seen == "Shop" else int(seen))
            asked += 1
        return asked

    readers = [asyncio.create_task(read()) for _ in range(5)]
    await write()
    assert min(await asyncio.gather(*readers)) > 5


# --------------------------------------------------------------------------------------------------- how much


async def test_cache_evicts_least_recently_used_beyond_bytes(empty_url: str, tmp_path: Path) -> None:
    async with keeping(empty_url, tmp_path, response_cache_bytes=10_000) as shopper:
        store = await make_store(shopper.database, description="x" * 1_000)
        query = "query($c: ID!, $n: Int) { config(by: {id: $c}) { description products(first: $n) { totalCount } } }"

        async def status(number: int) -> str:
            return str((await get(shopper, query, c=store, n=number)).headers["cache-status"])

        assert [await status(number) for number in (1, 1)] == [MISS, HIT]
        for number in range(2, 11):
            await status(number)
            assert await status(1) == HIT
        assert [await status(number) for number in (10, 2)] == [HIT, MISS]
        large = await make_store(shopper.database, description="x" * 9_500)
        answers = [await get(shopper, query, c=large) for _ in range(2)]
        assert {answer.headers["cache-status"] for answer in answers} == {MISS}
        assert await status(1) == HIT


async def test_cache_of_zero_bytes_stores_nothing(empty_url: str, tmp_path: Path) -> None:
    async with keeping(empty_url, tmp_path, response_cache_bytes=0) as shopper:
        await make_store(shopper.database, slug="shop")
        assert [(await get(shopper, NAME, slug="shop")).headers["cache-status"] for _ in range(2)] == [MISS, MISS]
        posted = await shopper.post(NAME, slug="shop")
        assert (posted.headers["cache-control"], "etag" in posted.headers) == ("no-store", False)


# -------------------------------------------------------------------------------------- other processes, replica


async def until(client: httpx.AsyncClient, expected: str, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while name(await asked(client)) != expected:  # noqa: ASYNC110  it is asked over HTTP
            await asyncio.sleep(0.02)


async def asked(client: httpx.AsyncClient) -> httpx.Response:
    return await client.get("/graphql", params={"query": NAME, "variables": '{"slug": "shop"}'})


async def test_other_process_sees_write_within_interval_or_immediately(empty_url: str, tmp_path: Path) -> None:
    """Two processes that tell each other nothing: one looks every half second, the other one asks each time."""
    async with Database(empty_url) as database:
        user = await make_user(database)
        store = await make_store(database, user_id=user, slug="shop", store_name="0")
    with (
        running(empty_url, tmp_path, BROADCAST_URL="memory://", POLL_INTERVAL="0.5") as one,
        running(empty_url, tmp_path, BROADCAST_URL="memory://", CACHE="strict", POLL_INTERVAL="60") as other,
    ):
        async with httpx.AsyncClient(base_url=one.address) as relaxed, httpx.AsyncClient(base_url=other.address) as strict:
            for number in range(1, 7):
                for client in (relaxed, strict):
                    await asked(client)
                    assert (await asked(client)).headers["cache-status"] == HIT
                writer = (relaxed, strict)[number % 2]
                await rename(writer, user, store, number)
                assert {name(await asked(client)) for client in (writer, strict)} == {str(number)}
                # Half a second, and what a busy machine adds.
                await until(relaxed, str(number), 10)
            await written_and_read(relaxed, strict, user, store)


async def rename(client: httpx.AsyncClient, user: str, store: str, number: int) -> None:
    body = {"query": RENAME, "variables": {"c": store, "name": str(number)}}
    answer = await client.post("/graphql", json=body, headers={"authorization": f"Bearer {token_of(user)}"})
    assert answer.json()["data"]["updateConfig"]["userErrors"] == []


async def written_and_read(writer: httpx.AsyncClient, reader: httpx.AsyncClient, user: str, store: str) -> None:
    """Write one name after the other, while others read: no name is older than the last one that was written before."""
    written, over = 6, asyncio.Event()

    async def write() -> None:
        nonlocal written
        for number in range(7, 37):
            await rename(writer, user, store, number)
            written = number
        over.set()

    async def read() -> None:
        while not over.is_set():
            least = written
            assert int(name(await asked(reader))) >= least

    await asyncio.gather(write(), *(read() for _ in range(4)))


async def test_lagging_replica_response_is_not_cached_as_fresh(postgres: str, template: str, tmp_path: Path) -> None:
    """The replica is a database of its own, which is brought up to date by hand."""
    primary, replica = fresh(postgres, template), fresh(postgres, template)
    store, owner = "018f0000-0000-7000-8000-00000000000a", "018f0000-0000-7000-8000-00000000000b"
    async with Database(primary) as ahead, Database(replica) as behind:
        for database in (ahead, behind):
            await make_user(database, id=owner, subject=owner)
            await make_store(database, id=store, user_id=owner, slug="shop", store_name="0")
        async with keeping(primary, tmp_path, database_read_url=SecretStr(replica), poll_interval=0.5) as shopper:
            assert [(await get(shopper, NAME, slug="shop")).headers["cache-status"] for _ in range(2)] == [MISS, HIT]
            await shopper.signed_in(owner).ask(RENAME, c=store, name="1")
            for _ in range(3):
                answer = await get(shopper, NAME, slug="shop")
                assert (name(answer), answer.headers["cache-status"]) == ("0", MISS)
            async with behind.transaction() as connection:
                await connection.raw.execute("UPDATE configs SET store_name = '1'")
                await connection.raw.execute("INSERT INTO store_positions VALUES (%s, 1)", [store])
            async with asyncio.timeout(5):
                while (answer := await get(shopper, NAME, slug="shop")).headers["cache-status"] == MISS:
                    assert name(answer) == "1"
                    await asyncio.sleep(0.05)
            assert name(answer) == "1"
