"""Import and export jobs over GraphQL: start, progress, cancel, retry, and access control."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import update

from storefront.core.db.database import Statement, compile_statement
from storefront.core.encryption import Vault, generate_key
from storefront.feed import log
from storefront.models import configs
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_store, make_user
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, product, selling, variant

KEY = generate_key()
HEADER = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Variant SKU"
SHIRT = f"{HEADER}\nshirt,Shirt,Size,S,20,S-1\nshirt,,,M,21,S-2\n"

UPLOAD = """mutation ($input: CreateImportUploadInput!) { createImportUpload(input: $input) {
  upload { id method url headers { name value } expiresAt } userErrors { code message path } } }"""
JOB = """id kind status progress error { message path } createdAt startedAt finishedAt config { id }
  issues { totalCount nodes { row handle column message } }"""
OF_KIND = """... on ImportJob {
    source fileName isDryRun rowsRead rowsRejected productsCreated productsUpdated productsUnchanged position }
  ... on ExportJob { productsWritten download { url expiresAt fileName size } }"""
JOB_QUERY = f"query ($id: ID!) {{ job(id: $id) {{ {JOB} {OF_KIND} }} }}"
IMPORT = f"""mutation ($input: ImportProductsInput!) {{ importProducts(input: $input) {{
  job {{ {JOB} }} replayed clientMutationId userErrors {{ code message path }} }} }}"""
EXPORT = """mutation ($input: ExportProductsInput!) { exportProducts(input: $input) {
  job { id status } userErrors { code message path } } }"""
CHANGES = """query ($id: ID!) { job(id: $id) { ... on ImportJob {
  deletesMissingVariants ignoredColumns { name cells } report { url fileName }
  changes(first: 100) { totalCount nodes { row handle kind variant field oldValue newValue } } } } }"""
PRODUCTS = """query ($store: ID!) { products(configId: $store, sort: {key: NAME, order: ASC}) { nodes {
  handle title price status tags images inventory
  variants(availableOnly: false) { nodes { name sku price inventory attributes { name value } } } } } }"""


@dataclass
class JobEnvironment:
    """A server, the owner of a store, the store, and another user."""

    owner: Client
    store: str
    rival: Client
    shopify: Shopify

    async def upload(self, content: str | bytes, name: str = "shop.csv", store: str | None = None) -> str:
        """Upload a file; returns the id of the upload."""
        body = content if isinstance(content, bytes) else content.encode()
        given = {"configId": store or self.store, "fileName": name, "size": len(body)}
        upload = (await self.owner.ask(UPLOAD, input=given))["createImportUpload"]["upload"]
        assert upload["expiresAt"].endswith("Z")
        headers = {header["name"]: header["value"] for header in upload["headers"]}
        async with httpx.AsyncClient() as http:
            (await http.request(upload["method"], upload["url"], content=body, headers=headers)).raise_for_status()
        return str(upload["id"])

    async def start_import(self, source: str = "SHOPIFY_CSV", **values: Any) -> Any:
        """Call importProducts; returns its payload."""
        given = {"configId": self.store, "source": source, **values}
        return (await self.owner.ask(IMPORT, input=given))["importProducts"]

    async def load_job(self, id_: str) -> Any:
        """Load a job."""
        return (await self.owner.ask(JOB_QUERY, id=id_))["job"]

    async def wait_until_finished(self, id_: str) -> Any:
        """Wait until a job is finished."""
        async with asyncio.timeout(20):
            while True:
                job = await self.load_job(id_)
                if job["status"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                    return job
                await asyncio.sleep(0.02)

    async def import_file(self, content: str | bytes, **values: Any) -> Any:
        """Import a file, and wait until it is finished."""
        payload = await self.start_import(uploadId=await self.upload(content), **values)
        assert payload["userErrors"] == []
        return await self.wait_until_finished(payload["job"]["id"])

    async def export_products(self) -> Any:
        """Export the products of the store, and wait until the job is finished."""
        payload = (await self.owner.ask(EXPORT, input={"configId": self.store}))["exportProducts"]
        assert payload["userErrors"] == []
        return await self.wait_until_finished(payload["job"]["id"])

    async def retry_import(self, id_: str) -> Any:
        """Retry an import, and wait until it is finished."""
        retry = "mutation ($id: ID!) { retryJob(input: {id: $id}) { userErrors { message } } }"
        assert (await self.owner.ask(retry, id=id_))["retryJob"]["userErrors"] == []
        return await self.wait_until_finished(id_)

    async def import_shop(self) -> Any:
        """Import the connected shop, and wait until it is finished."""
        payload = await self.start_import("SHOPIFY_STORE")
        assert payload["userErrors"] == []
        return await self.wait_until_finished(payload["job"]["id"])

    async def load_products(self) -> list[Mapping[str, Any]]:
        """The products of the store."""
        return list((await self.owner.ask(PRODUCTS, store=self.store))["products"]["nodes"])

    async def connect_shop(self, token: str = TOKEN, domain: str = DOMAIN) -> None:
        """Connect a shop."""
        shopify = {"domain": domain, "accessToken": token}
        query = "mutation ($input: UpdateConfigInput!) { updateConfig(input: $input) { userErrors { message } } }"
        done = await self.owner.ask(query, input={"id": self.store, "integrations": {"shopify": shopify}})
        assert done["updateConfig"]["userErrors"] == []


@pytest.fixture
async def env(empty_url: str, tmp_path: Path) -> AsyncIterator[JobEnvironment]:
    async with selling(Shopify()) as shopify, serving(empty_url, tmp_path, shopify_url=shopify.url) as client:
        owner, rival = [await make_user(client.database) for _ in range(2)]
        store = await make_store(client.database, user_id=owner)
        yield JobEnvironment(client.signed_in(owner), store, client.signed_in(rival), shopify)


async def test_dry_run_lists_changes_and_writes_report(env: JobEnvironment) -> None:
    await env.import_file(SHIRT)
    before = await env.load_products()
    file = f"{HEADER},Shade\nshirt,Tee,Size,S,19,S-1,red\nshirt,,,L,22,,\nmug,Mug,,,5,,\ncup,Cup,,,free,,\n"
    job = await env.import_file(file, dryRun=True, deleteMissingVariants=True)
    assert (job["status"], job["productsCreated"], job["productsUpdated"], job["rowsRejected"]) == ("SUCCEEDED", 1, 1, 1)
    assert await env.load_products() == before
    planned = (await env.owner.ask(CHANGES, id=job["id"]))["job"]
    assert (planned["deletesMissingVariants"], planned["ignoredColumns"]) == (True, [{"name": "Shade", "cells": 1}])
    rows = [
        ("2", "shirt", None, "UPDATE_PRODUCT", "title", "Shirt", "Tee"),
        ("2", "shirt", "L", "CREATE_VARIANT", None, None, "22.00"),
        ("2", "shirt", "S", "UPDATE_VARIANT", "price", "20.00", "19.00"),
        ("2", "shirt", "M", "DELETE_VARIANT", None, "21.00", None),
        ("4", "mug", None, "CREATE_PRODUCT", None, None, "Mug"),
        ("4", "mug", "Default", "CREATE_VARIANT", None, None, "5.00"),
    ]
    names = ("handle", "variant", "kind", "field", "oldValue", "newValue")
    assert planned["changes"]["totalCount"] == len(rows)
    assert [(str(node["row"]), *(node[name] for name in names)) for node in planned["changes"]["nodes"]] == rows
    async with httpx.AsyncClient() as http:
        response = await http.get(planned["report"]["url"])
    [_, *lines] = csv.reader(io.StringIO(response.text, newline=""))
    labels = [[cell or "" for cell in (*row[:3], row[3].replace("_", " ").lower(), *row[4:])] for row in rows]
    assert [*lines[:-1], lines[-1][:5]] == [*labels, ["5", "cup", "", "reject", "Variant Price"]]
    # The real run does the same, and keeps no list of it.
    done = await env.import_file(file, deleteMissingVariants=True)
    assert (done["productsCreated"], done["productsUpdated"], done["rowsRejected"]) == (1, 1, 1)
    assert [[variant["name"] for variant in product["variants"]["nodes"]] for product in await env.load_products()] == [
        ["Default"],
        ["S", "L"],
    ]
    listed = (await env.owner.ask(CHANGES, id=done["id"]))["job"]
    assert (listed["changes"]["totalCount"], listed["report"]) == (0, None)


async def test_alternative_texts_of_external_images_are_shown(env: JobEnvironment) -> None:
    url = "https://x.example/{}.jpg".format
    head = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Image Src,Image Alt Text,Variant Image"
    await env.import_file(f"{head}\nmug,Mug,Size,S,5,{url(1)},A red mug,{url(1)}\nmug,,,M,6,{url(2)},,{url(2)}\n")
    query = """query ($store: ID!) { products(configId: $store) { nodes {
      gallery { url alt } featuredImage { alt } variants { nodes { image { alt } } } } } }"""
    [mug] = (await env.owner.ask(query, store=env.store))["products"]["nodes"]
    assert mug["gallery"] == [{"url": url(1), "alt": "A red mug"}, {"url": url(2), "alt": None}]
    assert mug["featuredImage"] == {"alt": "A red mug"}
    assert [variant["image"] for variant in mug["variants"]["nodes"]] == [{"alt": "A red mug"}, {"alt": None}]


async def test_images_that_cannot_be_fetched_are_listed(env: JobEnvironment) -> None:
    # In the server's own network, where imports must not reach.
    url = "http://127.0.0.1:9/a.jpg"
    file = f"Handle,Title,Variant Price,Image Src\nmug,Mug,5,{url}\n"
    fetching = "query ($id: ID!) { job(id: $id) { ... on ImportJob { status fetchesImages isFetchingImages imagesFetched } } }"
    for options, problems in (({"fetchImages": False}, []), ({}, ["images"])):
        job = await env.import_file(file, **options)
        assert (job["status"], job["rowsRejected"]) == ("SUCCEEDED", 0)
        assert [(issue["row"], issue["column"]) for issue in job["issues"]["nodes"]] == [(None, column) for column in problems]
        shown = (await env.owner.ask(fetching, id=job["id"]))["job"]
        fetched = {"fetchesImages": not options, "isFetchingImages": False, "imagesFetched": 0}
        assert shown == {"status": "SUCCEEDED", **fetched}
        assert [product["images"] for product in await env.load_products()] == [[url]]
    # What it shows while the images wait for a worker.
    waiting = "UPDATE jobs SET status = 'queued', finished_at = NULL, not_before = 'infinity' WHERE id = %s"
    async with env.owner.database.transaction() as connection:
        await connection.raw.execute(waiting, [job["id"]])
        await connection.commit()
    assert (await env.owner.ask(fetching, id=job["id"]))["job"] == {"status": "QUEUED", **fetched, "isFetchingImages": True}


async def test_import_deletes_no_variant_unless_requested(env: JobEnvironment) -> None:
    await env.import_file(SHIRT)
    await env.import_file(f"{HEADER}\nshirt,Shirt,Size,S,20,S-1\n")
    [shirt] = await env.load_products()
    assert [variant["name"] for variant in shirt["variants"]["nodes"]] == ["S", "M"]


async def test_uploaded_file_is_imported(env: JobEnvironment) -> None:
    job = await env.import_file(SHIRT + "mug,Mug,,,5,M-1\ncup,Cup,,,-1,\n")
    assert (job["status"], job["source"], job["fileName"], job["progress"]) == ("SUCCEEDED", "SHOPIFY_CSV", "shop.csv", 1)
    assert (job["kind"], job["isDryRun"], job["rowsRead"], job["rowsRejected"]) == ("IMPORT", False, 4, 1)
    assert (job["productsCreated"], job["productsUpdated"], job["productsUnchanged"]) == (2, 0, 0)
    assert job["position"] == "2"
    assert job["finishedAt"] >= job["startedAt"] >= job["createdAt"]
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["handle"], issue["column"]) == (5, "cup", "Variant Price")
    assert "not an amount of 0 or more" in issue["message"]
    mug, shirt = await env.load_products()
    assert (mug["handle"], [one["sku"] for one in shirt["variants"]["nodes"]]) == ("mug", ["S-1", "S-2"])
    assert (await env.import_file(SHIRT))["productsUnchanged"] == 1


async def test_jobs_are_listed_newest_first(env: JobEnvironment) -> None:
    imports = [(await env.import_file(f"{HEADER}\nmug-{n},Mug,,,5,\nbad,,,,,\n"))["id"] for n in range(2)]
    export = await env.export_products()
    imports.append((await env.import_file(f"{HEADER}\nbad,,,,,\n"))["id"])
    query = """query ($store: ID!, $kinds: [JobKind!], $after: String) { config(by: {id: $store}) {
      jobs(kinds: $kinds, first: 2, after: $after) {
        totalCount nodes { __typename id issues { nodes { row } } } pageInfo { endCursor hasNextPage } } } }"""

    async def load(**arguments: Any) -> Any:
        return (await env.owner.ask(query, store=env.store, **arguments))["config"]["jobs"]

    first = await load()
    assert [job["id"] for job in first["nodes"]] == [imports[2], export["id"]]
    assert [job["__typename"] for job in first["nodes"]] == ["ImportJob", "ExportJob"]
    assert [job["issues"]["nodes"] for job in first["nodes"]] == [[{"row": 2}], []]
    assert (first["totalCount"], first["pageInfo"]["hasNextPage"]) == (4, True)
    rest = await load(after=first["pageInfo"]["endCursor"])
    assert [job["id"] for job in rest["nodes"]] == [imports[1], imports[0]]
    of_kind = await load(kinds=["IMPORT"])
    assert ([job["id"] for job in of_kind["nodes"]], of_kind["totalCount"]) == ([imports[2], imports[1]], 3)
    assert [job["id"] for job in (await load(kinds=["IMPORT"], after=of_kind["pageInfo"]["endCursor"]))["nodes"]] == imports[:1]
    assert [job["id"] for job in (await load(kinds=["EXPORT"]))["nodes"]] == [export["id"]]
    assert [(await load(kinds=kinds))["totalCount"] for kinds in (["EXPORT", "IMPORT"], [])] == [4, 4]


async def test_row_errors_are_paginated(env: JobEnvironment) -> None:
    job = await env.import_file(f"{HEADER}\n" + "".join(f"mug-{n},,,,5,\n" for n in range(1_010)), maxRejectedRows=2_000)
    assert (job["rowsRejected"], job["issues"]["totalCount"]) == (1_010, 1_000)
    query = """query ($id: ID!, $after: String) { job(id: $id) {
      issues(first: 60, after: $after) { nodes { row } pageInfo { endCursor hasNextPage } } } }"""
    rows: list[int] = []
    after = None
    while True:
        page = (await env.owner.ask(query, id=job["id"], after=after))["job"]["issues"]
        rows += [issue["row"] for issue in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert rows == list(range(2, 1_002))


async def test_import_stops_after_too_many_rejected_rows(env: JobEnvironment) -> None:
    rows = f"{HEADER}\nmug,Mug,,,5,\n" + "".join(f"bad-{n},Bad,,,free,\n" for n in range(1_100)) + "cup,Cup,,,5,\n"
    job = await env.import_file(rows)
    assert (job["status"], job["error"]["path"], job["productsCreated"], job["rowsRejected"]) == (
        "FAILED",
        ["maxRejectedRows"],
        1,
        1_001,
    )
    assert "more than 1,000 rows were rejected" in job["error"]["message"]
    assert job["issues"]["totalCount"] == 1_000
    # A retry resumes from the checkpoint, and may reject as many rows again.
    again = await env.retry_import(job["id"])
    assert (again["status"], again["productsCreated"]) == ("SUCCEEDED", 2)
    # The row that exceeded the limit is read again.
    assert again["rowsRejected"] == 1_100 + 1


@pytest.mark.parametrize(("allowed", "status", "rejected"), [(0, "FAILED", 1), (2, "FAILED", 3), (3, "SUCCEEDED", 3)])
async def test_rejected_rows_are_allowed_per_import(env: JobEnvironment, allowed: int, status: str, rejected: int) -> None:
    rows = f"{HEADER}\nmug,Mug,,,5,\n" + "".join(f"bad-{n},Bad,,,free,\n" for n in range(3)) + "cup,Cup,,,5,\n"
    job = await env.import_file(rows, maxRejectedRows=allowed)
    assert (job["status"], job["rowsRejected"]) == (status, rejected)
    assert job["productsCreated"] == (2 if status == "SUCCEEDED" else 1)


@pytest.mark.parametrize("allowed", [-1, 100_001])
async def test_max_rejected_rows_is_validated(env: JobEnvironment, allowed: int) -> None:
    payload = await env.start_import("SHOPIFY_STORE", maxRejectedRows=allowed)
    [error] = payload["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID_INPUT", ["maxRejectedRows"])


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("a\0b,Mug,,,5,", "Handle"),
        ("mug,M\0g,,,5,", "Title"),
        ("mug,Mug,Size,\0,5,", "Option1 Value"),
    ],
)
async def test_nul_in_a_cell_rejects_its_row_at_once(env: JobEnvironment, row: str, field: str) -> None:
    job = await env.import_file(f"{HEADER}\n{row}\ncup,Cup,,,5,\n")
    assert (job["status"], job["productsCreated"], job["rowsRejected"]) == ("SUCCEEDED", 1, 1)
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["column"]) == (2, field)


async def test_file_beyond_row_limit_fails(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_import_rows=3) as client:
        owner = await make_user(client.database)
        store = await make_store(client.database, user_id=owner)
        env = JobEnvironment(client.signed_in(owner), store, client, Shopify())
        job = await env.import_file(f"{HEADER}\n" + "".join(f"mug-{n},Mug,,,5,\n" for n in range(5)))
        assert (job["status"], job["productsCreated"]) == ("FAILED", 3)
        assert "more than 3 rows" in job["error"]["message"]


async def test_dry_run_changes_nothing(env: JobEnvironment) -> None:
    job = await env.import_file(SHIRT, dryRun=True)
    assert (job["status"], job["productsCreated"], job["isDryRun"], job["position"]) == ("SUCCEEDED", 1, True, None)
    assert await env.load_products() == []


async def test_unreadable_file_fails_with_message(env: JobEnvironment) -> None:
    job = await env.import_file("colour;price\nred;5\n")
    assert job["status"] == "FAILED"
    assert "has no column “Handle”" in job["error"]["message"]


async def test_import_requires_uploaded_file(env: JobEnvironment) -> None:
    given = {"configId": env.store, "fileName": "shop.csv", "size": 10}
    upload = (await env.owner.ask(UPLOAD, input=given))["createImportUpload"]["upload"]
    for values, code, words in (
        ({"uploadId": upload["id"]}, "INVALID_STATE", "nothing was uploaded yet"),
        ({}, "INVALID_INPUT", "is required for"),
    ):
        payload = await env.start_import(**values)
        assert payload["job"] is None
        [error] = payload["userErrors"]
        assert (error["code"], error["path"]) == (code, ["uploadId"])
        assert words in error["message"]


async def test_upload_can_be_imported_once(env: JobEnvironment) -> None:
    upload = await env.upload(SHIRT)
    await env.wait_until_finished((await env.start_import(uploadId=upload))["job"]["id"])
    [error] = (await env.start_import(uploadId=upload))["userErrors"]
    assert "was imported already" in error["message"]


async def test_idempotency_key_creates_one_import(env: JobEnvironment) -> None:
    upload = await env.upload(SHIRT)
    first, second = [await env.start_import(uploadId=upload, idempotencyKey="k", clientMutationId="c") for _ in range(2)]
    assert first["job"]["id"] == second["job"]["id"]
    assert (first["replayed"], second["replayed"]) == (False, True)
    await env.wait_until_finished(first["job"]["id"])
    [entry] = await log.read_entries(env.owner.database, env.store, 0, 10)
    assert (entry.client_mutation_id, entry.actor_id) == ("c", await _me(env.owner))


@pytest.mark.parametrize("published", [True, False])
async def test_other_users_cannot_access_jobs(env: JobEnvironment, published: bool) -> None:
    database = env.owner.database
    await database.fetch(_set_published(published))
    upload = await env.upload(SHIRT)
    job = await env.wait_until_finished((await env.start_import(uploadId=upload))["job"]["id"])
    export = (await env.owner.ask(EXPORT, input={"configId": env.store}))["exportProducts"]["job"]["id"]
    expected = {"FORBIDDEN"} if published else {"NOT_FOUND"}
    calls: list[tuple[str, dict[str, Any]]] = [
        (UPLOAD, {"input": {"configId": env.store, "fileName": "x", "size": 1}}),
        (IMPORT, {"input": {"configId": env.store, "source": "SHOPIFY_CSV", "uploadId": upload}}),
        (IMPORT, {"input": {"configId": env.store, "source": "SHOPIFY_STORE"}}),
        (EXPORT, {"input": {"configId": env.store}}),
        *(
            call
            for id_ in (job["id"], export)
            for call in (
                (JOB_QUERY, {"id": id_}),
                ("mutation ($id: ID!) { cancelJob(input: {id: $id}) { job { id } userErrors { code } } }", {"id": id_}),
                ("mutation ($id: ID!) { retryJob(input: {id: $id}) { job { id } userErrors { code } } }", {"id": id_}),
            )
        ),
    ]
    for query, variables in calls:
        answer = (await env.rival.post(query, **variables)).json()
        codes = {error["extensions"]["code"] for error in answer.get("errors", [])}
        for payload in (answer.get("data") or {}).values():
            codes |= {error["code"] for error in (payload or {}).get("userErrors", [])}
        assert codes or answer["data"] == {"job": None}, (query, answer)
        assert codes <= expected, (query, answer)
    jobs = "query ($id: ID!) { config(by: {id: $id}) { jobs { totalCount } } }"
    assert (await env.owner.ask(jobs, id=env.store))["config"] == {"jobs": {"totalCount": 2}}
    assert (await env.rival.ask(jobs, id=env.store))["config"] == ({"jobs": None} if published else None)


async def test_uploads_are_no_jobs(env: JobEnvironment) -> None:
    upload = await env.upload(SHIRT)
    assert await env.load_job(upload) is None
    for name in ("cancelJob", "retryJob"):
        mutation = f"mutation ($id: ID!) {{ {name}(input: {{id: $id}}) {{ userErrors {{ code path }} }} }}"
        [error] = (await env.owner.ask(mutation, id=upload))[name]["userErrors"]
        assert (error["code"], error["path"]) == ("NOT_FOUND", ["id"])
    payload = await env.start_import(uploadId=upload)
    assert payload["userErrors"] == []
    await env.wait_until_finished(payload["job"]["id"])


def _set_published(published: bool) -> Statement:
    return compile_statement(update(configs).values(is_published=published))


async def test_upload_of_another_store_is_rejected(env: JobEnvironment) -> None:
    other = await make_store(env.owner.database, user_id=(await _me(env.owner)))
    upload = await env.upload(SHIRT, store=other)
    [error] = (await env.start_import(uploadId=upload))["userErrors"]
    assert (error["code"], error["path"]) == ("NOT_FOUND", ["uploadId"])


async def _me(client: Client) -> str:
    return str((await client.ask("{ me { id } }"))["me"]["id"])


async def test_import_invalidates_cached_responses(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, response_cache_bytes=10_000_000, poll_interval=60) as client:
        owner = await make_user(client.database)
        store = await make_store(client.database, user_id=owner)
        env = JobEnvironment(client.signed_in(owner), store, client, Shopify())
        titles = "query ($store: ID!) { products(configId: $store) { nodes { title } } }"
        for title in ("Mug", "Cup"):
            await env.import_file(f"Handle,Title,Price\nmug,{title},5\n")
            for _ in range(2):
                received = await client.ask(titles, store=store)
                assert received["products"]["nodes"] == [{"title": title}]


# ---------------------------------------------------------------------------------------------- a live shop


async def test_connected_shop_is_imported(env: JobEnvironment) -> None:
    sizes = [
        variant(n, {"Size": f"{n}"}, price=f"{n}.50", inventoryQuantity=n, item={"tracked": n % 2 == 0}) for n in range(1, 131)
    ]
    env.shopify.products = [
        product(n, images=[f"https://x.example/{n}/{m}.jpg" for m in range(n)], status=status)
        for n, status in enumerate(["ACTIVE", "DRAFT", "ARCHIVED", "UNLISTED"] * 5, 1)
    ] + [product(21, sizes, tags=["x"], productType="", category={"id": "1", "name": "Shirts", "fullName": "A > Shirts"})]
    await env.connect_shop()
    job = await env.import_shop()
    assert (job["status"], job["error"], job["productsCreated"], job["rowsRejected"]) == ("SUCCEEDED", None, 21, 0)
    found = {one["handle"]: one for one in await env.load_products()}
    assert found["product-20"]["images"] == [f"https://x.example/20/{m}.jpg" for m in range(20)]
    assert [found[f"product-{n}"]["status"] for n in range(1, 5)] == ["ACTIVE", "INACTIVE", "ARCHIVED", "INACTIVE"]
    count = """query ($by: ProductByInput!) {
      product(by: $by) { variants { totalCount } category inventory totalInventory price priceRange { max } } }"""
    by = {"handle": {"configId": env.store, "handle": "product-21"}}
    whole = (await env.owner.ask(count, by=by))["product"]
    assert (whole["variants"]["totalCount"], whole["category"], whole["price"]) == (130, "A > Shirts", "1.50")
    assert (whole["inventory"], whole["totalInventory"], whole["priceRange"]["max"]) == (None, sum(range(2, 131, 2)), "130.50")
    assert (await env.import_shop())["productsUnchanged"] == 21


async def test_shop_import_retries_throttled_requests(env: JobEnvironment) -> None:
    env.shopify.products = [product(n) for n in range(1, 41)]
    env.shopify.restore_rate = 3_000
    env.shopify.faults = [Fault(429, {"retry-after": "0.1"}), Fault(502), Fault(None)]
    await env.connect_shop()
    assert (await env.import_shop())["productsCreated"] == 40


async def test_expired_token_fails_job_without_leaking(env: JobEnvironment, log_lines: list[Any]) -> None:
    await env.connect_shop("shpat_expired_token")
    job = await env.import_shop()
    assert (job["status"], job["error"]["path"]) == ("FAILED", ["integrations", "shopify", "accessToken"])
    assert "updateConfig" in job["error"]["message"]
    assert "shpat_expired_token" not in orjson.dumps([job, log_lines]).decode()
    # With a new token the retry resumes.
    env.shopify.products = [product(1)]
    await env.connect_shop()
    retry = "mutation ($id: ID!) { retryJob(input: {id: $id}) { job { status error { path } } userErrors { message } } }"
    again = (await env.owner.ask(retry, id=job["id"]))["retryJob"]
    assert again == {"job": {"status": "QUEUED", "error": None}, "userErrors": []}
    assert (await env.wait_until_finished(job["id"]))["productsCreated"] == 1


async def test_undecryptable_token_fails_job(env: JobEnvironment) -> None:
    await env.connect_shop()
    sealed = {"shopify": {"domain": DOMAIN, "accessToken": Vault([KEY]).encrypt(TOKEN)}}
    async with env.owner.database.transaction() as connection:
        statement = "UPDATE configs SET integrations = %s WHERE id = %s"
        await connection.raw.execute(statement, [orjson.dumps(sealed).decode(), env.store])
    job = await env.import_shop()
    assert (job["status"], job["error"]["path"]) == ("FAILED", ["integrations", "shopify", "accessToken"])
    assert "Set it again" in job["error"]["message"]


async def test_shop_with_other_currency_is_rejected(env: JobEnvironment) -> None:
    env.shopify.currency = "EUR"
    await env.connect_shop()
    job = await env.import_shop()
    assert (job["status"], job["error"]["path"]) == ("FAILED", ["currency"])


async def test_missing_or_foreign_shop_is_rejected(env: JobEnvironment) -> None:
    for domain, words in ((None, "no shop is connected"), ("shop.evil.example", "integrations.shopify.domain")):
        if domain:
            await env.connect_shop(domain=domain)
        [error] = (await env.start_import("SHOPIFY_STORE"))["userErrors"]
        assert words in error["message"]
    assert env.shopify.asked == []


async def test_shop_row_errors_use_shopify_fields(env: JobEnvironment) -> None:
    env.shopify.products = [product(1, [variant(1, {"Title": "Default Title"}, price="1234567890123456.00")]), product(2)]
    await env.connect_shop()
    job = await env.import_shop()
    assert (job["productsCreated"], job["rowsRejected"]) == (1, 1)
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["handle"], issue["column"]) == (1, "product-1", "variants.price")


async def test_import_waiting_for_shop_is_cancelled(env: JobEnvironment) -> None:
    env.shopify.products = [product(n) for n in range(1, 100)]
    await env.connect_shop()
    env.shopify.faults = [Fault(429, {"retry-after": "200"})]
    job = (await env.start_import("SHOPIFY_STORE"))["job"]["id"]
    await env.shopify.was_asked.wait()
    cancel = "mutation ($id: ID!) { cancelJob(input: {id: $id}) { job { status } userErrors { message } } }"
    assert (await env.owner.ask(cancel, id=job))["cancelJob"]["userErrors"] == []
    assert (await env.wait_until_finished(job))["status"] == "CANCELLED"
    [error] = (await env.owner.ask(cancel, id=job))["cancelJob"]["userErrors"]
    assert "is finished" in error["message"]


async def test_store_runs_one_job_and_limits_queue(env: JobEnvironment) -> None:
    await env.connect_shop()
    env.shopify.faults = [Fault(429, {"retry-after": "200"})]
    orders = [await env.start_import("SHOPIFY_STORE")]
    await env.shopify.was_asked.wait()
    orders += [await env.start_import("SHOPIFY_STORE") for _ in range(11)]
    assert [order["userErrors"] == [] for order in orders] == [True] * 11 + [False]
    ids = [order["job"]["id"] for order in orders[:-1]]
    assert [(await env.load_job(id_))["status"] for id_ in ids] == ["RUNNING"] + ["QUEUED"] * 10


# -------------------------------------------------------------------------------------------------- exports


async def test_export_round_trips_through_import(env: JobEnvironment) -> None:
    await env.import_file(
        f"{HEADER},Tags,Body (HTML)\n" + '=™,Bad handle,,,5,,,\n"mug","=HYPERLINK(1)",,,5,M-1,"a, b","<p>é\n""x""</p>"\n'
    )
    before = await env.load_products()
    job = await env.export_products()
    assert (job["kind"], job["status"], job["productsWritten"], job["progress"]) == ("EXPORT", "SUCCEEDED", 1, 1)
    async with httpx.AsyncClient() as http:
        answer = await http.get(job["download"]["url"])
        without_signature = await http.get(job["download"]["url"].partition("?")[0])
    assert (answer.status_code, without_signature.status_code) == (200, 403)
    assert int(answer.headers["content-length"]) == job["download"]["size"]
    assert job["download"]["fileName"] in answer.headers["content-disposition"]
    assert "'=HYPERLINK(1)" in answer.text
    again = await env.import_file(answer.content)
    assert (again["productsUnchanged"], again["rowsRejected"]) == (1, 0)
    assert await env.load_products() == before


# ------------------------------------------------------------------------------------------------- progress


async def test_import_progress_streams_until_finished(env: JobEnvironment) -> None:
    upload = await env.upload(f"{HEADER}\n" + "".join(f"mug-{n},Mug,,,5,\n" for n in range(1_200)))
    job = (await env.start_import(uploadId=upload))["job"]["id"]
    query = {
        "query": "subscription ($id: ID!) { jobProgress(id: $id) { status progress ... on ImportJob { rowsRead } } }",
        "variables": {"id": job},
    }
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {env.owner.token}"}
    async with env.owner.http.stream("POST", "/graphql", json=query, headers=headers) as stream:
        lines = [line.removeprefix("data:") async for line in stream.aiter_lines() if line.startswith("data:")]
    received = [orjson.loads(line)["data"]["jobProgress"] for line in lines if line]
    assert received[-1] == {"status": "SUCCEEDED", "rowsRead": 1_200, "progress": 1}
    rows = [one["rowsRead"] for one in received]
    assert rows == sorted(rows)


async def test_import_progress_requires_ownership(env: JobEnvironment) -> None:
    job = (await env.start_import(uploadId=await env.upload(SHIRT)))["job"]["id"]
    error = await env.rival.refusal("subscription ($id: ID!) { jobProgress(id: $id) { status } }", id=job)
    assert error["extensions"]["code"] in ("FORBIDDEN", "BAD_REQUEST")
