"""What `storefront serve --demo` shows: pictures, variants with SKUs, and changes, from the log's beginning and live."""

import json
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from storefront.demo.plan import EXAMPLE_HANDLE
from storefront.queries.images import RENDITION_WIDTHS
from tests.feed.processes import Server

SLUG = "nordic-oak-living"
PRODUCTS = """query ($slug: String!) { config(by: { slug: $slug }) { id products(first: 50, sort: { key: POPULARITY }) { nodes {
  images gallery(first: 4) { alt placeholder width url(width: 320, format: WEBP) }
  options { name values { value } } variants(first: 50) { nodes { sku attributes { name value } } }
  reviews(first: 3) { nodes { user { image } } } } } } }"""
EXAMPLE = """query ($slug: String!, $handle: String!) { config(by: { slug: $slug }) { product(by: { handle: $handle }) {
  inStock reviewSummary { count } gallery(first: 4) { url }
  variant(by: { attributes: [{ name: "size", value: "Large" }] }) { sku } } } }"""
FEED = "subscription ($config: ID!, $after: Position) { productFeed(configId: $config, after: $after) { __typename position } }"
COUNTERS = 'subscription ($config: ID!) { analyticsFeed(configId: $config, timeZone: "UTC") { pageViews sessions } }'
CHANGES = """query ($config: ID!) { productChanges(configId: $config, after: "0", first: 20) {
  changes { __typename position } hasMore } }"""


@pytest.fixture(scope="module")
def http(demo_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_server.address, timeout=40) as client:
        yield client


@pytest.fixture(scope="module")
def config(http: httpx.Client) -> Any:
    return ask(http, PRODUCTS, slug=SLUG)["config"]


def ask(http: httpx.Client, query: str, **variables: Any) -> Any:
    answer = http.post("/graphql", json={"query": query, "variables": variables}).json()
    assert "errors" not in answer, answer
    return answer["data"]


def listen(http: httpx.Client, query: str, token: str | None = None, **variables: Any) -> Iterator[Any]:
    """The events of a subscription."""
    headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {token}"} if token else {})
    with http.stream("POST", "/graphql", json={"query": query, "variables": variables}, headers=headers) as response:
        deadline = time.monotonic() + 90
        for line in response.iter_lines():
            assert time.monotonic() < deadline
            if line.startswith("data:") and (text := line.removeprefix("data:").strip()):
                yield json.loads(text)["data"]


def test_every_picture_loads(http: httpx.Client, config: Any) -> None:
    products = config["products"]["nodes"]
    people = {review["user"]["image"] for product in products for review in product["reviews"]["nodes"]}
    urls = {url for product in products for url in product["images"]} | people
    assert len(urls) > 60 and all(product["images"] for product in products)
    for url in urls:
        response = http.get(url)
        assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    for image in (image for product in products for image in product["gallery"]):
        assert image["alt"] and image["placeholder"].startswith("data:image/") and image["width"]


def test_picture_is_served_in_all_sizes_and_formats(http: httpx.Client, config: Any) -> None:
    base, _, name = config["products"]["nodes"][0]["images"][0].rpartition("/")
    full = Image.open(BytesIO(http.get(f"{base}/{name}").content)).width
    widths = [str(width) for width in RENDITION_WIDTHS if width < full]
    assert len(widths) > 4
    for width in [*widths, "full"]:
        for extension in ("webp", "jpg", "png", "avif"):
            response = http.get(f"{base}/{width}.{extension}")
            assert response.status_code == 200
            assert Image.open(BytesIO(response.content)).width == (full if width == "full" else int(width))


def test_variants_have_skus_and_options_are_in_order(config: Any) -> None:
    sizes = ["XS", "S", "M", "L", "XL", "XXL", "Small", "Medium", "Large"]
    seen = 0
    for product in config["products"]["nodes"]:
        skus = [variant["sku"] for variant in product["variants"]["nodes"]]
        assert all(skus) and len(set(skus)) == len(skus)
        for option in product["options"]:
            ranks = [sizes.index(value["value"]) for value in option["values"] if value["value"] in sizes]
            assert ranks == sorted(ranks)
            seen += len(ranks) > 1
    assert seen > 10


def test_example_product_of_the_guide_has_everything(http: httpx.Client) -> None:
    product = ask(http, EXAMPLE, slug=SLUG, handle=EXAMPLE_HANDLE)["config"]["product"]
    assert product["inStock"] and product["variant"]["sku"] and product["gallery"]
    assert product["reviewSummary"]["count"] >= 5


def test_changes_start_at_the_beginning_of_the_log(http: httpx.Client, config: Any) -> None:
    page = ask(http, CHANGES, config=config["id"])["productChanges"]
    assert len(page["changes"]) > 10 and page["hasMore"]
    assert "FeedReset" not in {change["__typename"] for change in page["changes"]}
    first = next(listen(http, FEED, config=config["id"], after="0"))["productFeed"]
    assert first["__typename"] == "ProductCreated"


def test_live_feed_shows_edits_without_any_user(http: httpx.Client, config: Any) -> None:
    for event in listen(http, FEED, config=config["id"]):
        if event["productFeed"]["__typename"] == "ProductUpdated":
            break


def test_live_counters_move_without_any_user(http: httpx.Client, config: Any, owner_token: str) -> None:
    totals = (sum(event["analyticsFeed"].values()) for event in listen(http, COUNTERS, owner_token, config=config["id"]))
    first = next(totals)
    assert any(total > first for total in totals)
