"""Product feeds over HTTP: their content, what they leave out, validators, slow readers and limits."""

import asyncio
import csv
import json
import socket
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from starlette.applications import Starlette

from storefront.core.ids import uuid7
from storefront.product_feeds import endpoint
from storefront.product_feeds.endpoint import FORMATS, FeedEndpoint, FeedInterruptedError
from storefront.product_feeds.google import ATTRIBUTES
from storefront.queries import product_feeds
from storefront.serving.protection.rate_limit import DEFAULT_RATE_LIMITER, RateLimiter, RateLimitScope
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

TEMPLATE = "https://shop.example/p/{handle}?v={variantId}"
GOOGLE = "{http://base.google.com/ns/1.0}"
NAMES = tuple(FORMATS)
GTIN = "4006381333931"


async def make_feed_store(client: Client, **values: Any) -> str:
    """A published store whose products have URLs."""
    return await make_store(client.database, **{"product_url_template": TEMPLATE, **values})


async def fetch(client: Client, store: str, name: str, **headers: str) -> httpx.Response:
    return await client.http.get(f"/feeds/{store}/{name}", headers=headers)


def parse_xml(text: str) -> list[dict[str, Any]]:
    """The items of an XML feed; additional images are lists."""
    items = []
    for element in ET.fromstring(text.encode()).findall("channel/item"):  # noqa: S314
        item: dict[str, Any] = {}
        for child in element:
            name = child.tag.removeprefix(GOOGLE)
            if name == "additional_image_link":
                item.setdefault(name, []).append(child.text)
            else:
                assert name not in item
                item[name] = child.text
        items.append(item)
    return items


def parse_tsv(text: str) -> list[dict[str, str]]:
    """The rows of a feed, without empty cells."""
    header, *rows = csv.reader(text.splitlines(), delimiter="\t", strict=True)
    assert tuple(header) == ATTRIBUTES and all(len(row) == len(header) for row in rows)
    return [{name: cell for name, cell in zip(header, row, strict=True) if cell} for row in rows]


async def test_google_feeds_have_every_attribute(shopper: Client) -> None:
    database, sku = shopper.database, f"T-{uuid7().hex}"
    store = await make_feed_store(shopper, currency="EUR", store_name='Tee & "Co" \x0b<1>')
    images = [f"https://cdn.example/ü/{n},x.jpg" for n in range(14)]
    text = 'Soft\ttee\x01 & "more" <3\r\nsecond ]]> line'
    tee = await make_product(
        database,
        store,
        title="Tee " + "x" * 200,
        handle="ชา-เขียว",
        description=text,
        vendor="Acme\x02 Co",
        category="Clothing > Tees",
        images=images,
        options=[{"id": str(uuid7()), "name": "Colour", "values": [{"id": str(uuid7()), "value": "Red", "swatch": None}]}],
    )
    cells = {
        "Google Shopping / Google Product Category": "Apparel > Shirts",
        "Google: Gender (product.metafields.mm-google-shopping.gender)": "Unisex",
        "Google Shopping / Condition": "used",
        "Google Shopping / Age Group": "nonsense",
        "Google Shopping / Custom Label 0": "high margin",
    }
    red = await make_variant(
        database,
        tee,
        sku=sku,
        name="Red",
        attributes={"Colour": "Red", "Fit": "Slim"},
        price="20.00",
        compare_at_price="25.00",
        cost="7777.77",
        barcode=GTIN,
        image=images[3],
        weight={"value": "0.5", "unit": "kilogram"},
        kept_cells=cells,
    )
    blue = await make_variant(database, tee, sku=sku, attributes={"Colour": "Blue"}, barcode="123", inventory=0, price="19.5")
    await make_variant(database, tee, sku="gone", attributes={"Colour": "Grey"}, is_available=False)
    hosted = f"https://api.example/media/{uuid7()}-{'0' * 32}/full"
    photos = [f"{hosted}.avif", "https://cdn.example/full.avif"]
    mug = await make_product(database, store, title="Mug", handle="mug", images=photos)
    for status in ("inactive", "archived"):
        await make_product(database, store, title="Secret", status=status)

    response = await fetch(shopper, store, "google.xml")
    assert response.headers["content-type"] == "application/xml; charset=utf-8"
    root = ET.fromstring(response.content)  # noqa: S314
    assert [root.findtext(f"channel/{name}") for name in ("title", "link")] == ['Tee & "Co" <1>', "https://shop.example/"]
    items = parse_xml(response.text)
    encoded = [url.replace("ü", "%C3%BC") for url in images]
    handle = "%E0%B8%8A%E0%B8%B2-%E0%B9%80%E0%B8%82%E0%B8%B5%E0%B8%A2%E0%B8%A7"
    title = f"{('Tee ' + 'x' * 200)[:144]} - Red"
    shared = {
        "item_group_id": tee,
        "description": 'Soft\ttee & "more" <3\nsecond ]]> line',
        "brand": "Acme Co",
        "product_type": "Clothing > Tees",
        "google_product_category": "Apparel > Shirts",
        "gender": "unisex",
        "condition": "used",
    }
    first: dict[str, Any] = {
        **shared,
        "id": sku,
        "title": title,
        "link": f"https://shop.example/p/{handle}?v={red}",
        "image_link": encoded[3],
        "additional_image_link": [url for url in encoded if url != encoded[3]][:10],
        "availability": "in_stock",
        "price": "25.00 EUR",
        "sale_price": "20.00 EUR",
        "gtin": GTIN,
        "color": "Red",
        "shipping_weight": "0.5 kg",
    }
    assert items[0] == first and len(title) == 150
    # The older variant has the SKU, and the barcode is none.
    second: dict[str, Any] = {
        **shared,
        "id": blue,
        "availability": "out_of_stock",
        "price": "19.50 EUR",
        "identifier_exists": "no",
    }
    second |= {"color": "Blue", "image_link": encoded[0], "additional_image_link": encoded[1:11]}
    second |= {"link": first["link"].replace(red, blue), "title": items[1]["title"]}
    assert items[1] == second
    named = {"id", "title", "description", "link", "availability", "price", "condition", "identifier_exists"}
    assert items[2].keys() == named | {"image_link", "additional_image_link"}
    assert (items[2]["image_link"], items[2]["additional_image_link"]) == (f"{hosted}.jpg", photos[1:])
    assert items[2]["description"] == "Mug" and len(items) == 3 and f"/p/mug?v={items[2]['id']}" in items[2]["link"]

    tsv = await fetch(shopper, store, "google.tsv")
    assert tsv.headers["content-type"] == "text/tab-separated-values; charset=utf-8"
    lists = [{**item, "additional_image_link": item.get("additional_image_link", [])} for item in items]
    expected = [
        item
        | {"description": " ".join(item["description"].split())}
        | {"additional_image_link": ",".join(url.replace(",", "%2C") for url in item["additional_image_link"])}
        for item in lists
    ]
    assert parse_tsv(tsv.text) == [{name: value for name, value in item.items() if value} for item in expected]

    lines = [*map(json.loads, (await fetch(shopper, store, "products.jsonl")).text.splitlines())]
    assert [line["id"] for line in lines] == [tee, mug]
    assert [variant["id"] for variant in lines[0]["variants"]] == [red, blue]
    assert lines[0]["description"] == text and lines[0]["variants"][0]["price"] == "20.00"
    assert lines[0]["url"] == first["link"] and lines[0]["currency"] == "EUR"
    for name in NAMES:
        content = (await fetch(shopper, store, name)).text
        assert not [word for word in ("Secret", "gone", "7777.77", "high margin", "Custom Label") if word in content]


async def test_feeds_show_what_anonymous_shoppers_query(shopper: Client) -> None:
    """One definition of what is visible: the feed and the API list the same products and variants, for owners, too."""
    owner = await make_user(shopper.database)
    store = await make_feed_store(shopper, user_id=owner)
    for status in ("active", "inactive", "active", "archived"):
        product = await make_product(shopper.database, store, status=status)
        for n in range(3):
            await make_variant(shopper.database, product, is_available=n != 1)
    query = """query ($id: ID!) { config(by: {id: $id}) { products(first: 100, sort: {key: CREATED_AT, order: ASC}) { nodes {
      id variants(first: 100) { nodes { id inStock } } } } } }"""
    found = await shopper.ask(query, id=store)
    expected = [
        (node["id"], [(variant["id"], variant["inStock"]) for variant in node["variants"]["nodes"]])
        for node in found["config"]["products"]["nodes"]
    ]
    headers = {"authorization": f"Bearer {shopper.signed_in(owner).token}"}
    lines = (await fetch(shopper, store, "products.jsonl", **headers)).text.splitlines()
    listed = [
        (line["id"], [(variant["id"], variant["inStock"]) for variant in line["variants"]]) for line in map(json.loads, lines)
    ]
    assert len(expected) == 2 and len(expected[0][1]) == 2 and sorted(listed) == sorted(expected)


async def test_feeds_of_hidden_and_unknown_stores_are_not_found(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    hidden = await make_feed_store(shopper, is_published=False, user_id=owner)
    headers = {"authorization": f"Bearer {shopper.signed_in(owner).token}"}
    public = await make_feed_store(shopper)
    missing = [(hidden, "google.xml"), (str(uuid7()), "google.tsv"), ("x", "products.jsonl"), (public, "google.csv")]
    for store, name in missing:
        for method in ("GET", "HEAD"):
            response = await shopper.http.request(method, f"/feeds/{store}/{name}", headers={**headers, "if-none-match": "*"})
            assert response.status_code == 404 and "etag" not in response.headers
    assert (await shopper.http.post(f"/feeds/{public}/google.xml")).status_code == 405


async def test_store_without_product_urls_has_only_the_plain_feed(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_feed_store(shopper, product_url_template=None, user_id=owner)
    await make_product(shopper.database, store)
    refused = await fetch(shopper, store, "google.xml")
    assert refused.status_code == 404 and refused.text.startswith("productUrlTemplate: ")
    plain = json.loads((await fetch(shopper, store, "products.jsonl")).text)
    assert plain["url"] is None and plain["variants"][0]["url"] is None
    update = """mutation ($input: UpdateConfigInput!) { updateConfig(input: $input) {
      config { productUrlTemplate } userErrors { message path } } }"""
    client = shopper.signed_in(owner)
    wrong = await client.ask(update, input={"id": store, "productUrlTemplate": "https://shop.example/"})
    assert [error["path"] for error in wrong["updateConfig"]["userErrors"]] == [["productUrlTemplate"]]
    done = await client.ask(update, input={"id": store, "productUrlTemplate": TEMPLATE})
    assert done["updateConfig"] == {"config": {"productUrlTemplate": TEMPLATE}, "userErrors": []}
    assert len(parse_xml((await fetch(shopper, store, "google.xml")).text)) == 1


async def test_validators_follow_the_log_of_the_store(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_feed_store(shopper, user_id=owner)
    product = await make_product(shopper.database, store)
    etags = set()
    for name in NAMES:
        response = await fetch(shopper, store, name)
        etag = response.headers["etag"]
        etags.add(etag)
        assert etag.startswith('W/"') and response.headers["cache-control"] == "public, max-age=0, must-revalidate"
        assert response.headers["access-control-allow-origin"] == "*"
        head = await shopper.http.head(f"/feeds/{store}/{name}")
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
        assert head.headers["content-type"] == response.headers["content-type"]
        for condition in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
            with count_statements(shopper.database) as statements:
                unchanged = await fetch(shopper, store, name, **{"if-none-match": condition})
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
            assert len(statements) == 1
    assert len(etags) == 3
    update = "mutation ($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
    assert not (await shopper.signed_in(owner).ask(update, input={"id": product, "title": "Changed"}))["updateProduct"][
        "userErrors"
    ]
    for name in NAMES:
        changed = await fetch(shopper, store, name, **{"if-none-match": ", ".join(etags)})
        assert changed.status_code == 200 and "Changed" in changed.text and changed.headers["etag"] not in etags


async def test_statements_depend_on_pages_only(shopper: Client) -> None:
    """A store, a statement for each page with one that finds no more, and the store again."""
    counts = []
    for products, variants in ((1, 1), (60, 1), (30, 4)):
        store = await make_feed_store(shopper)
        for _ in range(products):
            product = await make_product(shopper.database, store, images=["https://cdn.example/1.jpg"])
            for _ in range(variants - 1):
                await make_variant(shopper.database, product, kept_cells={"Google Shopping / MPN": "M"})
        for name in NAMES:
            with count_statements(shopper.database) as statements:
                await fetch(shopper, store, name)
            counts.append(len(statements))
    assert set(counts) == {4}


async def test_pages_list_each_product_once(shopper: Client) -> None:
    store = await make_feed_store(shopper)
    # Pages end at so many products, and before so much text.
    texts = ["", *["x" * 60_000] * 12, *[""] * product_feeds.MAX_PAGE_PRODUCTS]
    ids = [await make_product(shopper.database, store, description=text) for text in texts]
    with count_statements(shopper.database) as statements:
        lines = (await fetch(shopper, store, "products.jsonl")).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids
    assert len(statements) == 3 + 3


async def test_slow_reader_holds_neither_connection_nor_pages(shopper: Client) -> None:
    store = await make_feed_store(shopper)
    for _ in range(60):
        await make_product(shopper.database, store, description="x" * 65_000)
    pages = 60 // (product_feeds.MAX_PAGE_CHARACTERS // 65_000 + 1)
    host, port = shopper.http.base_url.host, shopper.http.base_url.port
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with count_statements(shopper.database) as statements:
        await loop.sock_connect(connection, (host, port))
        request = f"GET /feeds/{store}/products.jsonl HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        await loop.sock_sendall(connection, request.encode())
        received = bytearray(await loop.sock_recv(connection, 1_000))
        # Nothing is read, and nothing more happens.
        before = -1
        while len(statements) != before:
            before = len(statements)
            await asyncio.sleep(0.3)
        assert 2 <= len(statements) < pages
        stats = shopper.database.get_pool_stats()
        assert stats.connections == stats.free
        while chunk := await loop.sock_recv(connection, 1_000_000):
            received += chunk
        assert len(statements) > pages
    connection.close()
    assert received.endswith(b"0\r\n\r\n") and received.count(b'"handle"') == 60


async def test_feed_that_is_not_read_is_no_load(shopper: Client) -> None:
    store = await make_feed_store(shopper)
    for _ in range(3):
        await make_product(shopper.database, store, description="x" * 65_000)
    feeds = FeedEndpoint(lambda: shopper.database, DEFAULT_RATE_LIMITER, "public")
    row = await product_feeds.load_published_store(shopper.database, store)
    chunks = feeds._track_chunks("", endpoint._iterate_chunks(shopper.database, row, FORMATS["products.jsonl"]))
    await anext(chunks)
    assert feeds.waiting_count == 1
    await chunks.aclose()
    assert feeds.waiting_count == 0


async def test_feed_of_store_that_is_unpublished_meanwhile_is_incomplete(shopper: Client) -> None:
    store = await make_feed_store(shopper)
    for _ in range(3):
        await make_product(shopper.database, store, description="x" * 65_000)
    row = await product_feeds.load_published_store(shopper.database, store)
    chunks = endpoint._iterate_chunks(shopper.database, row, FORMATS["products.jsonl"])
    await anext(chunks)
    async with shopper.database.transaction() as connection:
        await connection.raw.execute("UPDATE configs SET is_published = false WHERE id = %s", [store])
    with pytest.raises(FeedInterruptedError):
        async for _ in chunks:
            pass


async def test_addresses_are_limited(shopper: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await make_feed_store(shopper)

    async def request(limiter: RateLimiter, count: int) -> list[httpx.Response]:
        feeds = FeedEndpoint(lambda: shopper.database, limiter, "public")
        transport = httpx.ASGITransport(Starlette(routes=feeds.build_routes()), client=("203.0.113.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://feeds.example") as http:
            return [await http.get(f"/feeds/{store}/google.xml") for _ in range(count)]

    responses = await request(RateLimiter({RateLimitScope.ADDRESS: "2/m"}), 3)
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert int(responses[2].headers["retry-after"]) > 0 and "Too many requests" in responses[2].text
    monkeypatch.setattr(endpoint, "MAX_OPEN_FEEDS_PER_CALLER", 0)
    [busy] = await request(DEFAULT_RATE_LIMITER, 1)
    assert busy.status_code == 503 and busy.headers["retry-after"] == "5"
