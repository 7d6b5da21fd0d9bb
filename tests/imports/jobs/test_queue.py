"""Imports and exports over GraphQL: ordered, watched, cancelled and tried again, by their owners and nobody else."""

import asyncio
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
JOB = """id status source fileName progress rows created updated unchanged rejected preview position error { message field }
  createdAt startedAt finishedAt config { id } issues { totalCount nodes { row handle field message } }"""
IMPORT = f"""mutation ($input: ImportProductsInput!) {{ importProducts(input: $input) {{
  job {{ {JOB} }} replayed clientMutationId userErrors {{ code message path }} }} }}"""
EXPORT = """mutation ($input: ExportProductsInput!) { exportProducts(input: $input) {
  job { id status } userErrors { code message path } } }"""
EXPORTED = """query ($id: ID!) { exportJob(id: $id) { status products progress error { message }
  download { url expiresAt fileName size } issues { nodes { handle field message } } } }"""
PRODUCTS = """query ($store: ID!) { products(configId: $store, sort: {key: NAME, order: ASC}) { nodes {
  handle title price status tags images inventory
  variants(availableOnly: false) { name sku price inventory attributes { name value } } } } }"""


@dataclass
class Place:
    """A server, an owner of a store, the store, and somebody else."""

    owner: Client
    store: str
    rival: Client
    shopify: Shopify

    async def upload(self, content: str | bytes, name: str = "shop.csv", store: str | None = None) -> str:
        """A file, uploaded."""
        body = content if isinstance(content, bytes) else content.encode()
        given = {"configId": store or self.store, "fileName": name, "size": len(body)}
        upload = (await self.owner.ask(UPLOAD, input=given))["createImportUpload"]["upload"]
        assert upload["expiresAt"].endswith("Z")
        headers = {header["name"]: header["value"] for header in upload["headers"]}
        async with httpx.AsyncClient() as http:
            (await http.request(upload["method"], upload["url"], content=body, headers=headers)).raise_for_status()
        return str(upload["id"])

    async def order(self, source: str = "SHOPIFY_CSV", **values: Any) -> Any:
        """The payload of importProducts."""
        given = {"configId": self.store, "source": source, **values}
        return (await self.owner.ask(IMPORT, input=given))["importProducts"]

    async def job(self, id_: str) -> Any:
        """An import as it is."""
        return (await self.owner.ask(f"query ($id: ID!) {{ importJob(id: $id) {{ {JOB} }} }}", id=id_))["importJob"]

    async def over(self, id_: str, query: str | None = None, field: str = "importJob") -> Any:
        """A job when it is over."""
        query = query or f"query ($id: ID!) {{ importJob(id: $id) {{ {JOB} }} }}"
        async with asyncio.timeout(20):
            while True:
                job = (await self.owner.ask(query, id=id_))[field]
                if job["status"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                    return job
                await asyncio.sleep(0.02)

    async def bring(self, content: str | bytes, **values: Any) -> Any:
        """The import of a file when it is over."""
        payload = await self.order(uploadId=await self.upload(content), **values)
        assert payload["userErrors"] == []
        return await self.over(payload["job"]["id"])

    async def retried(self, id_: str) -> Any:
        """An import that failed, tried again, when it is over."""
        retry = "mutation ($id: ID!) { retryImport(input: {id: $id}) { userErrors { message } } }"
        assert (await self.owner.ask(retry, id=id_))["retryImport"]["userErrors"] == []
        return await self.over(id_)

    async def live(self) -> Any:
        """The import of the connected shop when it is over."""
        payload = await self.order("SHOPIFY_STORE")
        assert payload["userErrors"] == []
        return await self.over(payload["job"]["id"])

    async def products(self) -> list[Mapping[str, Any]]:
        """What the store has."""
        return list((await self.owner.ask(PRODUCTS, store=self.store))["products"]["nodes"])

    async def connect(self, token: str = TOKEN, domain: str = DOMAIN) -> None:
        """Connect a shop."""
        shopify = {"domain": domain, "accessToken": token}
        query = "mutation ($input: UpdateConfigInput!) { updateConfig(input: $input) { userErrors { message } } }"
        done = await self.owner.ask(query, input={"id": self.store, "integrations": {"shopify": shopify}})
        assert done["updateConfig"]["userErrors"] == []


@pytest.fixture
async def place(empty_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with selling(Shopify()) as shopify, serving(empty_url, tmp_path, shopify_url=shopify.url) as client:
        owner, rival = [await make_user(client.database) for _ in range(2)]
        store = await make_store(client.database, user_id=owner)
        yield Place(client.signed_in(owner), store, client.signed_in(rival), shopify)


async def test_a_file_is_uploaded_imported_and_told_of(place: Place) -> None:
    job = await place.bring(SHIRT + "mug,Mug,,,5,M-1\ncup,Cup,,,-1,\n")
    assert (job["status"], job["source"], job["fileName"], job["progress"]) == ("SUCCEEDED", "SHOPIFY_CSV", "shop.csv", 1)
    assert (job["rows"], job["created"], job["updated"], job["unchanged"], job["rejected"]) == (4, 2, 0, 0, 1)
    assert job["position"] == "2"
    assert job["finishedAt"] >= job["startedAt"] >= job["createdAt"]
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["handle"], issue["field"]) == (5, "cup", "Variant Price")
    assert "not an amount of 0 or more" in issue["message"]
    mug, shirt = await place.products()
    assert (mug["handle"], [one["sku"] for one in shirt["variants"]]) == ("mug", ["S-1", "S-2"])
    assert (await place.bring(SHIRT))["unchanged"] == 1


async def test_imports_are_listed_newest_first(place: Place) -> None:
    jobs = [await place.bring(f"{HEADER}\nmug-{n},Mug,,,5,\nbad,,,,,\n") for n in range(3)]
    query = """query ($store: ID!, $after: String) { importJobs(configId: $store, first: 2, after: $after) {
      totalCount nodes { id issues { nodes { row } } } pageInfo { endCursor hasNextPage } } }"""
    first = (await place.owner.ask(query, store=place.store))["importJobs"]
    assert [job["id"] for job in first["nodes"]] == [jobs[2]["id"], jobs[1]["id"]]
    assert [job["issues"]["nodes"] for job in first["nodes"]] == [[{"row": 3}]] * 2
    assert first["totalCount"] == 3
    rest = (await place.owner.ask(query, store=place.store, after=first["pageInfo"]["endCursor"]))["importJobs"]
    assert [job["id"] for job in rest["nodes"]] == [jobs[0]["id"]]


async def test_rows_that_were_left_out_come_in_pages(place: Place) -> None:
    job = await place.bring(f"{HEADER}\n" + "".join(f"mug-{n},,,,5,\n" for n in range(1_010)), maxRejectedRows=2_000)
    assert (job["rejected"], job["issues"]["totalCount"]) == (1_010, 1_000)
    query = """query ($id: ID!, $after: String) { importJob(id: $id) {
      issues(first: 60, after: $after) { nodes { row } pageInfo { endCursor hasNextPage } } } }"""
    rows: list[int] = []
    after = None
    while True:
        page = (await place.owner.ask(query, id=job["id"], after=after))["importJob"]["issues"]
        rows += [issue["row"] for issue in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert rows == list(range(2, 1_002))


async def test_import_stops_after_too_many_rejected_rows(place: Place) -> None:
    rows = f"{HEADER}\nmug,Mug,,,5,\n" + "".join(f"bad-{n},,,,5,\n" for n in range(1_100)) + "cup,Cup,,,5,\n"
    job = await place.bring(rows)
    assert (job["status"], job["error"]["field"], job["created"], job["rejected"]) == ("FAILED", "maxRejectedRows", 1, 1_001)
    assert "more than 1,000 rows were rejected" in job["error"]["message"]
    assert job["issues"]["totalCount"] == 1_000
    # Tried again it goes on where it was, and may reject as many again.
    again = await place.retried(job["id"])
    assert (again["status"], again["created"]) == ("SUCCEEDED", 2)
    # The row that was one too many is read again.
    assert again["rejected"] == 1_100 + 1


@pytest.mark.parametrize(("allowed", "status", "rejected"), [(0, "FAILED", 1), (2, "FAILED", 3), (3, "SUCCEEDED", 3)])
async def test_rejected_rows_are_allowed_per_import(place: Place, allowed: int, status: str, rejected: int) -> None:
    rows = f"{HEADER}\nmug,Mug,,,5,\n" + "".join(f"bad-{n},,,,5,\n" for n in range(3)) + "cup,Cup,,,5,\n"
    job = await place.bring(rows, maxRejectedRows=allowed)
    assert (job["status"], job["rejected"]) == (status, rejected)
    assert job["created"] == (2 if status == "SUCCEEDED" else 1)


@pytest.mark.parametrize("allowed", [-1, 100_001])
async def test_allowed_rejections_have_bounds(place: Place, allowed: int) -> None:
    payload = await place.order("SHOPIFY_STORE", maxRejectedRows=allowed)
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
async def test_nul_in_a_cell_rejects_its_row_at_once(place: Place, row: str, field: str) -> None:
    job = await place.bring(f"{HEADER}\n{row}\ncup,Cup,,,5,\n")
    assert (job["status"], job["created"], job["rejected"]) == ("SUCCEEDED", 1, 1)
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["field"]) == (2, field)


async def test_file_beyond_its_row_limit_fails(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_import_rows=3) as client:
        owner = await make_user(client.database)
        store = await make_store(client.database, user_id=owner)
        place = Place(client.signed_in(owner), store, client, Shopify())
        job = await place.bring(f"{HEADER}\n" + "".join(f"mug-{n},Mug,,,5,\n" for n in range(5)))
        assert (job["status"], job["created"]) == ("FAILED", 3)
        assert "more than 3 rows" in job["error"]["message"]


async def test_a_preview_tells_and_changes_nothing(place: Place) -> None:
    job = await place.bring(SHIRT, preview=True)
    assert (job["status"], job["created"], job["preview"], job["position"]) == ("SUCCEEDED", 1, True, None)
    assert await place.products() == []


async def test_a_file_that_is_none_fails_in_words(place: Place) -> None:
    job = await place.bring("name;price\nmug;5\n")
    assert job["status"] == "FAILED"
    assert "has no column “Handle”" in job["error"]["message"]


async def test_what_was_not_uploaded_cannot_be_imported(place: Place) -> None:
    given = {"configId": place.store, "fileName": "shop.csv", "size": 10}
    upload = (await place.owner.ask(UPLOAD, input=given))["createImportUpload"]["upload"]
    for values, words in (({"uploadId": upload["id"]}, "nothing has come yet"), ({}, "is needed for a file")):
        payload = await place.order(**values)
        assert payload["job"] is None
        [error] = payload["userErrors"]
        assert (error["code"], error["path"]) == ("INVALID_INPUT", ["uploadId"])
        assert words in error["message"]


async def test_an_upload_is_imported_once(place: Place) -> None:
    upload = await place.upload(SHIRT)
    await place.over((await place.order(uploadId=upload))["job"]["id"])
    [error] = (await place.order(uploadId=upload))["userErrors"]
    assert "was imported already" in error["message"]


async def test_a_retried_request_makes_one_import(place: Place) -> None:
    upload = await place.upload(SHIRT)
    first, second = [await place.order(uploadId=upload, idempotencyKey="k", clientMutationId="c") for _ in range(2)]
    assert first["job"]["id"] == second["job"]["id"]
    assert (first["replayed"], second["replayed"]) == (False, True)
    await place.over(first["job"]["id"])
    [entry] = await log.read_entries(place.owner.database, place.store, 0, 10)
    assert (entry.client_mutation_id, entry.actor_id) == ("c", await _me(place.owner))


@pytest.mark.parametrize("published", [True, False])
async def test_what_is_somebody_elses_stays_so(place: Place, published: bool) -> None:
    database = place.owner.database
    await database.fetch(_set_published(published))
    upload = await place.upload(SHIRT)
    job = await place.over((await place.order(uploadId=upload))["job"]["id"])
    export = (await place.owner.ask(EXPORT, input={"configId": place.store}))["exportProducts"]["job"]["id"]
    expected = {"FORBIDDEN"} if published else {"NOT_FOUND"}
    calls: list[tuple[str, dict[str, Any]]] = [
        (UPLOAD, {"input": {"configId": place.store, "fileName": "x", "size": 1}}),
        (IMPORT, {"input": {"configId": place.store, "source": "SHOPIFY_CSV", "uploadId": upload}}),
        (IMPORT, {"input": {"configId": place.store, "source": "SHOPIFY_STORE"}}),
        (EXPORT, {"input": {"configId": place.store}}),
        ("query ($id: ID!) { importJob(id: $id) { id } }", {"id": job["id"]}),
        ("query ($id: ID!) { exportJob(id: $id) { download { url } } }", {"id": export}),
        ("query ($id: ID!) { importJobs(configId: $id) { nodes { id } } }", {"id": place.store}),
        ("query ($id: ID!) { exportJobs(configId: $id) { nodes { id } } }", {"id": place.store}),
        *(
            (f"mutation ($id: ID!) {{ {verb}{noun}(input: {{id: $id}}) {{ job {{ id }} userErrors {{ code }} }} }}", {"id": id_})
            for verb in ("cancel", "retry")
            for noun, id_ in (("Import", job["id"]), ("Export", export))
        ),
    ]
    for query, variables in calls:
        answer = (await place.rival.post(query, **variables)).json()
        codes = {error["extensions"]["code"] for error in answer.get("errors", [])}
        for payload in (answer.get("data") or {}).values():
            codes |= {error["code"] for error in (payload or {}).get("userErrors", [])}
        assert codes or answer["data"] in ({"importJob": None}, {"exportJob": None}), (query, answer)
        assert codes <= expected, (query, answer)


def _set_published(published: bool) -> Statement:
    return compile_statement(update(configs).values(is_published=published))


async def test_another_stores_upload_is_not_imported(place: Place) -> None:
    other = await make_store(place.owner.database, user_id=(await _me(place.owner)))
    upload = await place.upload(SHIRT, store=other)
    [error] = (await place.order(uploadId=upload))["userErrors"]
    assert (error["code"], error["path"]) == ("NOT_FOUND", ["uploadId"])


async def _me(client: Client) -> str:
    return str((await client.ask("{ me { id } }"))["me"]["id"])


async def test_what_was_kept_before_an_import_is_told_no_more(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, response_cache_bytes=10_000_000, poll_interval=60) as client:
        owner = await make_user(client.database)
        store = await make_store(client.database, user_id=owner)
        place = Place(client.signed_in(owner), store, client, Shopify())
        titles = "query ($store: ID!) { products(configId: $store) { nodes { title } } }"
        for title in ("Mug", "Cup"):
            await place.bring(f"Handle,Title,Price\nmug,{title},5\n")
            for _ in range(2):
                told = await client.ask(titles, store=store)
                assert told["products"]["nodes"] == [{"title": title}]


# ---------------------------------------------------------------------------------------------- a live shop


async def test_a_connected_shop_is_imported(place: Place) -> None:
    sizes = [variant(n, {"Size": f"{n}"}, price=f"{n}.50", inventoryQuantity=n, tracked=n % 2 == 0) for n in range(1, 131)]
    place.shopify.products = [
        product(n, images=[f"https://x.example/{n}/{m}.jpg" for m in range(n)], status=status)
        for n, status in enumerate(["ACTIVE", "DRAFT", "ARCHIVED", "UNLISTED"] * 5, 1)
    ] + [product(21, sizes, tags=["x"], productType="", category={"id": "1", "name": "Shirts", "fullName": "A > Shirts"})]
    await place.connect()
    job = await place.live()
    assert (job["status"], job["error"], job["created"], job["rejected"]) == ("SUCCEEDED", None, 21, 0)
    found = {one["handle"]: one for one in await place.products()}
    assert found["product-20"]["images"] == [f"https://x.example/20/{m}.jpg" for m in range(20)]
    assert [found[f"product-{n}"]["status"] for n in range(1, 5)] == ["ACTIVE", "INACTIVE", "ARCHIVED", "INACTIVE"]
    count = "query ($by: ProductBy!) { product(by: $by) { variantCount category inventory price priceRange { max } } }"
    by = {"handle": {"configId": place.store, "handle": "product-21"}}
    whole = (await place.owner.ask(count, by=by))["product"]
    assert (whole["variantCount"], whole["category"], whole["price"]) == (130, "Shirts", "1.50")
    assert (whole["inventory"], whole["priceRange"]["max"]) == (sum(range(2, 131, 2)), "130.50")
    assert (await place.live())["unchanged"] == 21


async def test_a_shop_that_has_to_be_asked_again_is_imported_all_the_same(place: Place) -> None:
    place.shopify.products = [product(n) for n in range(1, 41)]
    place.shopify.restore_rate = 3_000
    place.shopify.faults = [Fault(429, {"retry-after": "0.1"}), Fault(502), Fault(None)]
    await place.connect()
    assert (await place.live())["created"] == 40


async def test_a_token_that_has_expired_fails_the_job_and_is_not_told(place: Place, log_lines: list[Any]) -> None:
    await place.connect("shpat_expired_token")
    job = await place.live()
    assert (job["status"], job["error"]["field"]) == ("FAILED", "integrations.shopify.accessToken")
    assert "updateConfig" in job["error"]["message"]
    assert "shpat_expired_token" not in orjson.dumps([job, log_lines]).decode()
    # Mended, it goes on.
    place.shopify.products = [product(1)]
    await place.connect()
    retry = "mutation ($id: ID!) { retryImport(input: {id: $id}) { job { status error { field } } userErrors { message } } }"
    again = (await place.owner.ask(retry, id=job["id"]))["retryImport"]
    assert again == {"job": {"status": "QUEUED", "error": None}, "userErrors": []}
    assert (await place.over(job["id"]))["created"] == 1


async def test_a_token_of_a_key_that_is_gone_is_told_of(place: Place) -> None:
    await place.connect()
    sealed = {"shopify": {"domain": DOMAIN, "accessToken": Vault([KEY]).encrypt(TOKEN)}}
    async with place.owner.database.transaction() as connection:
        statement = "UPDATE configs SET integrations = %s WHERE id = %s"
        await connection.raw.execute(statement, [orjson.dumps(sealed).decode(), place.store])
    job = await place.live()
    assert (job["status"], job["error"]["field"]) == ("FAILED", "integrations.shopify.accessToken")
    assert "Set it again" in job["error"]["message"]


async def test_prices_in_another_currency_are_not_taken(place: Place) -> None:
    place.shopify.currency = "EUR"
    await place.connect()
    job = await place.live()
    assert (job["status"], job["error"]["field"]) == ("FAILED", "currency")


async def test_no_shop_or_one_elsewhere_is_refused_at_once(place: Place) -> None:
    for domain, words in ((None, "no shop is connected"), ("shop.evil.example", "integrations.shopify.domain")):
        if domain:
            await place.connect(domain=domain)
        [error] = (await place.order("SHOPIFY_STORE"))["userErrors"]
        assert words in error["message"]
    assert place.shopify.asked == []


async def test_rows_of_a_shop_that_cannot_be_taken_are_told_in_its_words(place: Place) -> None:
    place.shopify.products = [product(1, [variant(1, {"Title": "Default Title"}, price="123456789.00")]), product(2)]
    await place.connect()
    job = await place.live()
    assert (job["created"], job["rejected"]) == (1, 1)
    [issue] = job["issues"]["nodes"]
    assert (issue["row"], issue["handle"], issue["field"]) == (1, "product-1", "variants.price")


async def test_an_import_that_waits_for_its_shop_is_cancelled_at_once(place: Place) -> None:
    place.shopify.products = [product(n) for n in range(1, 100)]
    await place.connect()
    place.shopify.faults = [Fault(429, {"retry-after": "200"})]
    job = (await place.order("SHOPIFY_STORE"))["job"]["id"]
    await place.shopify.was_asked.wait()
    cancel = "mutation ($id: ID!) { cancelImport(input: {id: $id}) { job { status } userErrors { message } } }"
    assert (await place.owner.ask(cancel, id=job))["cancelImport"]["userErrors"] == []
    assert (await place.over(job))["status"] == "CANCELLED"
    [error] = (await place.owner.ask(cancel, id=job))["cancelImport"]["userErrors"]
    assert "over" in error["message"]


async def test_a_store_has_one_job_at_a_time_and_few_that_wait(place: Place) -> None:
    await place.connect()
    place.shopify.faults = [Fault(429, {"retry-after": "200"})]
    orders = [await place.order("SHOPIFY_STORE")]
    await place.shopify.was_asked.wait()
    orders += [await place.order("SHOPIFY_STORE") for _ in range(11)]
    assert [order["userErrors"] == [] for order in orders] == [True] * 11 + [False]
    ids = [order["job"]["id"] for order in orders[:-1]]
    assert [(await place.job(id_))["status"] for id_ in ids] == ["RUNNING"] + ["QUEUED"] * 10


# -------------------------------------------------------------------------------------------------- exports


async def test_an_export_is_downloaded_and_imports_to_the_same(place: Place) -> None:
    await place.bring(
        f"{HEADER},Tags,Body (HTML)\n" + '=1+1,Bad handle,,,5,,,\n"mug","=HYPERLINK(1)",,,5,M-1,"a, b","<p>é\n""x""</p>"\n'
    )
    before = await place.products()
    id_ = (await place.owner.ask(EXPORT, input={"configId": place.store}))["exportProducts"]["job"]["id"]
    job = await place.over(id_, EXPORTED, "exportJob")
    assert (job["status"], job["products"], job["progress"]) == ("SUCCEEDED", 1, 1)
    async with httpx.AsyncClient() as http:
        answer = await http.get(job["download"]["url"])
        without_signature = await http.get(job["download"]["url"].partition("?")[0])
    assert (answer.status_code, without_signature.status_code) == (200, 403)
    assert int(answer.headers["content-length"]) == job["download"]["size"]
    assert job["download"]["fileName"] in answer.headers["content-disposition"]
    assert "'=HYPERLINK(1)" in answer.text
    again = await place.bring(answer.content)
    assert (again["unchanged"], again["rejected"]) == (1, 0)
    assert await place.products() == before


# ------------------------------------------------------------------------------------------------- progress


async def test_progress_is_told_until_the_end(place: Place) -> None:
    upload = await place.upload(f"{HEADER}\n" + "".join(f"mug-{n},Mug,,,5,\n" for n in range(1_200)))
    job = (await place.order(uploadId=upload))["job"]["id"]
    query = {"query": "subscription ($id: ID!) { importProgress(id: $id) { status rows progress } }", "variables": {"id": job}}
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {place.owner.token}"}
    async with place.owner.http.stream("POST", "/graphql", json=query, headers=headers) as stream:
        lines = [line.removeprefix("data:") async for line in stream.aiter_lines() if line.startswith("data:")]
    told = [orjson.loads(line)["data"]["importProgress"] for line in lines if line]
    assert told[-1] == {"status": "SUCCEEDED", "rows": 1_200, "progress": 1}
    rows = [one["rows"] for one in told]
    assert rows == sorted(rows)


async def test_progress_of_somebody_elses_import_is_not_told(place: Place) -> None:
    job = (await place.order(uploadId=await place.upload(SHIRT)))["job"]["id"]
    error = await place.rival.refusal("subscription ($id: ID!) { importProgress(id: $id) { status } }", id=job)
    assert error["extensions"]["code"] in ("FORBIDDEN", "BAD_REQUEST")
