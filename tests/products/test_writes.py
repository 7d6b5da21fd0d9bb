"""Product mutations over GraphQL: stored rows, payloads and log entries."""

import asyncio

import pytest

from storefront.models.variant_summary import SUMMARY_COLUMNS
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, summarize

ERRORS = """userErrors { __typename code message path
  ... on StaleVersionError { currentVersion changedFields } }"""
CREATE = f"""mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{
  product {{ id handle title price status version priceRange {{ min max }}
    variants {{ totalCount nodes {{ name price attributes {{ name value }} }} }} }}
  position clientMutationId replayed {ERRORS} }} }}"""
UPDATE = f"""mutation($input: UpdateProductInput!) {{ updateProduct(input: $input) {{
  product {{ id title price compareAtPrice version }} position {ERRORS} }} }}"""
BULK = f"""mutation($input: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $input) {{
  results {{ index product {{ id handle price version }} userErrors {{ code path }} }} position {ERRORS} }} }}"""
CHANGES = """query($c: ID!) { productChanges(configId: $c, after: "0", first: 500) { position changes { __typename
  ... on ProductCreated { position clientMutationId } ... on ProductUpdated { position changedFields } } } }"""


@pytest.fixture
async def owner(shopper: Client) -> Client:
    """A signed-in user, whose id is also the subject of their token."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user)


async def own_store(owner: Client) -> str:
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    return await make_store(owner.database, user_id=me)


async def test_product_is_created_with_variants(owner: Client) -> None:
    store = await own_store(owner)
    forms = [{"name": "Small", "price": "9.50", "attributes": [{"name": "size", "value": "S"}]}, {"name": "Large", "price": "12"}]
    given = {"configId": store, "title": "Crème Brûlée Pan", "price": "10", "variants": forms, "clientMutationId": "a1"}
    made = (await owner.ask(CREATE, input=given))["createProduct"]
    assert made["userErrors"] == [] and made["position"] == "1" and made["clientMutationId"] == "a1"
    assert made["product"]["handle"] == "creme-brulee-pan" and made["product"]["variants"]["totalCount"] == 2
    assert made["product"]["priceRange"] == {"min": "9.50", "max": "12.00"}
    again = (await owner.ask(CREATE, input=given))["createProduct"]
    assert again["product"]["handle"] == "creme-brulee-pan-2" and again["position"] == "2"
    page = (await owner.ask(CHANGES, c=store))["productChanges"]
    assert [c["clientMutationId"] for c in page["changes"]] == ["a1", "a1"]


async def test_handles_of_equal_titles_are_numbered(owner: Client) -> None:
    store, handles = await own_store(owner), list[str]()
    for _ in range(11):
        made = (await owner.ask(CREATE, input={"configId": store, "title": "Mug", "price": "1"}))["createProduct"]["product"]
        handles.append(made["handle"])
    assert handles == ["mug", *(f"mug-{n}" for n in range(2, 12))]
    async with owner.database.transaction() as connection:
        gaps = ["mug", "mug-3", "mug-8"]
        await connection.raw.execute("DELETE FROM products WHERE config_id = %s AND handle = ANY(%s)", [store, gaps])
    for _ in range(4):
        payload = (await owner.ask(CREATE, input={"configId": store, "title": "Mug", "price": "1"}))["createProduct"]
        assert payload["userErrors"] == []
        handles.append(payload["product"]["handle"])
    # After the deletion each is free, whichever of the gaps are found.
    assert handles[11] == "mug" and len({*handles[11:]}) == 4 and not {*handles[11:]} & ({*handles[:11]} - {*gaps})


async def test_deletion_returns_store_with_new_count(owner: Client) -> None:
    store = await own_store(owner)
    gone, _ = [await make_product(owner.database, store) for _ in range(2)]
    document = "mutation($i: ID!) { deleteProduct(input: {id: $i}) { deletedId config { id products { totalCount } } } }"
    deleted = (await owner.ask(document, i=gone))["deleteProduct"]
    assert deleted == {"deletedId": gone, "config": {"id": store, "products": {"totalCount": 1}}}
    assert (await owner.ask(document, i=gone))["deleteProduct"] == {"deletedId": None, "config": None}


@pytest.mark.parametrize(
    "forms",
    [
        [],
        [{"price": "100", "inventory": 0}],
        [{"price": "1", "isAvailable": False, "inventory": 4}],
        [{"price": "9.50", "inventory": 1}, {"price": "10", "inventory": None, "compareAtPrice": "20"}],
        [{"price": "1", "isAvailable": False}, {"price": "200"}, {"compareAtPrice": "15"}],
        [{"price": "9.50", "inventory": -3, "inventoryPolicy": "CONTINUE"}, {"price": "10", "inventory": 1}],
    ],
    ids=["none", "sold-out", "hidden", "both", "mixed", "negative"],
)
async def test_new_product_has_summary_of_stored_variants(owner: Client, forms: list[dict[str, object]]) -> None:
    """It is computed before the variants are stored, so that the row is written once."""
    store = await own_store(owner)
    fields = "product { id inStock inventory totalInventory variants { totalCount } price compareAtPrice priceRange { min max } }"
    create = f"mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{ {fields} }} }}"
    variants = [{**form, "attributes": [{"name": "n", "value": f"{n}"}]} for n, form in enumerate(forms)]
    given = {"configId": store, "title": "Pan", "price": "10", "inventory": 7, "variants": variants}
    received = (await owner.ask(create, input=given))["createProduct"]
    look = f"SELECT {', '.join(SUMMARY_COLUMNS)}, ctid FROM products"
    async with owner.database.transaction() as connection:
        before = await (await connection.raw.execute(look.encode())).fetchall()
    await summarize(owner.database)
    async with owner.database.transaction() as connection:
        assert await (await connection.raw.execute(look.encode())).fetchall() == before
    read = f"query($id: ID!) {{ product(by: {{id: $id}}) {{ {fields.removeprefix('product { ').removesuffix(' }')} }} }}"
    assert (await owner.ask(read, id=received["product"]["id"]))["product"] == received["product"]


async def test_product_without_variants_gets_one(owner: Client) -> None:
    store = await own_store(owner)
    create = f"""mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{ {ERRORS} product {{
      price compareAtPrice inventory inStock variants(availableOnly: false) {{
        nodes {{ name price compareAtPrice inventory isAvailable attributes {{ name }} }} }} }} }} }}"""
    given = {"configId": store, "title": "Pan", "price": "10", "compareAtPrice": "12", "inventory": 7}
    made = (await owner.ask(create, input=given))["createProduct"]["product"]
    values = {"price": "10.00", "compareAtPrice": "12.00", "inventory": 7}
    [variant] = made.pop("variants")["nodes"]
    assert variant == {**values, "name": "Default", "isAvailable": True, "attributes": []} and made == {**values, "inStock": True}
    for wrong, path in (({"compareAtPrice": "9"}, ["compareAtPrice"]), ({"inventory": -1}, ["inventory"])):
        refused = (await owner.ask(create, input={**given, **wrong}))["createProduct"]
        assert [(e["code"], e["path"]) for e in refused["userErrors"]] == [("INVALID_INPUT", path)]


async def test_variants_without_price_take_that_of_product(owner: Client) -> None:
    store = await own_store(owner)
    create = f"""mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{ {ERRORS} product {{
      price compareAtPrice inventory variants {{ nodes {{ price compareAtPrice inventory }} }} }} }} }}"""
    forms: list[dict[str, str | int]] = [
        {"price": "8"},
        {},
        {"compareAtPrice": "14", "inventory": 2},
        {"price": "11", "inventory": 1},
    ]
    variants = [{**form, "attributes": [{"name": "n", "value": f"{n}"}]} for n, form in enumerate(forms)]
    given = {"configId": store, "title": "Pan", "price": "10", "compareAtPrice": "12", "inventory": 99, "variants": variants}
    made = (await owner.ask(create, input=given))["createProduct"]["product"]
    assert [(node["price"], node["compareAtPrice"], node["inventory"]) for node in made["variants"]["nodes"]] == [
        ("8.00", None, 0), ("10.00", "12.00", 0), ("10.00", "14.00", 2), ("11.00", None, 1),
    ]  # fmt: skip
    assert (made["price"], made["compareAtPrice"], made["inventory"]) == ("8.00", None, 3)
    own_prices = {"configId": store, "title": "Pan", "variants": [variants[0], variants[3]]}
    assert (await owner.ask(create, input=own_prices))["createProduct"]["product"]["price"] == "8.00"
    for without in ([], variants):
        refused = (await owner.ask(create, input={**own_prices, "variants": without}))["createProduct"]
        assert [(e["code"], e["path"]) for e in refused["userErrors"]] == [("INVALID_INPUT", ["price"])]
        assert "is required, unless each variant has a price" in refused["userErrors"][0]["message"]


async def test_low_compare_price_is_reported_where_it_is(owner: Client) -> None:
    store = await own_store(owner)
    forms: list[dict[str, str]] = [{}, {}, {"price": "4"}, {"compareAtPrice": "8"}, {"price": "20", "compareAtPrice": "19"}]
    variants = [{**form, "attributes": [{"name": "n", "value": f"{n}"}]} for n, form in enumerate(forms)]
    given = {"configId": store, "title": "Pan", "price": "10", "compareAtPrice": "5", "variants": variants}
    refused = (await owner.ask(CREATE, input=given))["createProduct"]
    assert [".".join(error["path"]) for error in refused["userErrors"]] == [
        "compareAtPrice", "variants.3.compareAtPrice", "variants.4.compareAtPrice",
    ]  # fmt: skip


async def test_equal_variants_of_new_product_are_refused(owner: Client) -> None:
    store = await own_store(owner)
    sizes: list[list[dict[str, str]]] = [
        [{"name": "Size", "value": "S"}, {"name": "Colour", "value": "Red"}],
        [{"name": "Size", "value": "M"}],
        [{"name": "colour", "value": "RED"}, {"name": "size", "value": "s"}],
        [],
        [],
    ]
    variants = [{"name": f"V{n}", "price": "1", "attributes": attributes} for n, attributes in enumerate(sizes)]
    refused = (await owner.ask(CREATE, input={"configId": store, "title": "Pan", "variants": variants}))["createProduct"]
    assert [(e["code"], e["path"]) for e in refused["userErrors"]] == [
        ("INVALID_INPUT", ["variants", str(n), "attributes"]) for n in (2, 4)
    ]
    assert ["variant 0" in refused["userErrors"][0]["message"], "variant 3" in refused["userErrors"][1]["message"]] == [
        True,
        True,
    ]
    good = {"configId": store, "title": "Pan", "variants": [variants[0], variants[1], variants[3]]}
    assert (await owner.ask(CREATE, input=good))["createProduct"]["product"]["variants"]["totalCount"] == 3


async def test_all_errors_are_returned_with_paths(owner: Client) -> None:
    store = await own_store(owner)
    forms = [{"name": "", "price": "-1"}, {"name": "ok", "price": "5", "compareAtPrice": "4"}]
    given = {
        "configId": store,
        "title": " ",
        "price": "1.999",
        "images": ["https://a.example/x.jpg", "javascript:1"],
        "variants": forms,
    }
    answer = (await owner.ask(CREATE, input=given))["createProduct"]
    paths = sorted(".".join(error["path"]) for error in answer["userErrors"])
    assert answer["product"] is None
    assert paths == ["images.1", "price", "title", "variants.0.name", "variants.0.price"]


async def test_stale_version_is_rejected_with_changed_fields(owner: Client) -> None:
    store = await own_store(owner)
    product = await make_product(owner.database, store)
    await owner.ask(UPDATE, input={"id": product, "title": "New", "price": "11"})
    answer = (await owner.ask(UPDATE, input={"id": product, "title": "Newer", "expectedVersion": 1}))["updateProduct"]
    [error] = answer["userErrors"]
    assert (error["__typename"], error["currentVersion"], error["changedFields"]) == ("StaleVersionError", 2, ["price", "title"])
    assert answer["product"] is None


async def test_same_idempotency_key_returns_first_result(owner: Client) -> None:
    store = await own_store(owner)
    given = {"configId": store, "title": "Once", "price": "1", "idempotencyKey": "k1"}
    answers = [r["createProduct"] for r in await asyncio.gather(*(owner.ask(CREATE, input=given) for _ in range(50)))]
    assert sorted(a["replayed"] for a in answers) == [False] + [True] * 49
    assert len({str({**a, "replayed": None}) for a in answers}) == 1
    other = (await owner.ask(CREATE, input={**given, "title": "Other"}))["createProduct"]
    assert [e["code"] for e in other["userErrors"]] == ["IDEMPOTENCY_CONFLICT"]
    total = await owner.ask("query($c: ID!) { products(configId: $c) { totalCount } }", c=store)
    assert total["products"]["totalCount"] == 1


async def test_one_of_hundred_concurrent_updates_wins(owner: Client) -> None:
    store = await own_store(owner)
    product = await make_product(owner.database, store)
    updates = [owner.ask(UPDATE, input={"id": product, "title": f"T{n}", "expectedVersion": 1}) for n in range(100)]
    answers = [answer["updateProduct"] for answer in await asyncio.gather(*updates)]
    assert sum(1 for a in answers if not a["userErrors"]) == 1
    assert {a["userErrors"][0]["code"] for a in answers if a["userErrors"]} == {"STALE_VERSION"}


async def test_bulk_update_respects_error_policy(owner: Client) -> None:
    store = await own_store(owner)
    good, bad = await make_product(owner.database, store), await make_product(owner.database, store)
    rows = [{"id": good, "price": "20"}, {"id": bad, "price": "-1"}]
    nothing = (await owner.ask(BULK, input={"rows": rows}))["bulkUpdateProducts"]
    assert [r["product"] for r in nothing["results"]] == [None, None] and nothing["position"] is None
    assert nothing["results"][1]["userErrors"] == [{"code": "INVALID_INPUT", "path": ["rows", "1", "price"]}]
    some = (await owner.ask(BULK, input={"rows": rows, "errorPolicy": "VALID_ROWS"}))["bulkUpdateProducts"]
    assert some["results"][0]["product"]["price"] == "20.00"
    assert some["results"][1]["product"] is None and some["position"] == "1"


async def test_bulk_update_takes_constant_statements(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(250)]
    costs = []
    for fields in ({"title": "New"}, {"price": "3"}):
        for changed in (products[:1], products[1:]):
            with count_statements(owner.database) as seen:
                answer = await owner.ask(BULK, input={"rows": [{"id": id_, **fields} for id_ in changed]})
            assert answer["bulkUpdateProducts"]["userErrors"] == []
            costs.append(len(seen))
    # The stores of new ids are looked up once. Search documents need the codes of variants. Prices are also compared with those
    # of the variants, and written to them.
    assert costs == [6, 6, 6, 6]


async def test_stale_bulk_rows_take_constant_statements(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store, version=2) for _ in range(20)]
    with count_statements(owner.database) as seen:
        rows = [{"id": id_, "price": "2", "expectedVersion": 1} for id_ in products]
        answer = await owner.ask(BULK, input={"rows": rows})
    assert [(e["code"], e["path"]) for e in answer["bulkUpdateProducts"]["userErrors"]] == [
        ("STALE_VERSION", ["rows", str(n), "expectedVersion"]) for n in range(20)
    ]
    assert len(seen) <= 4


async def test_stale_bulk_rows_report_changed_fields_each(owner: Client) -> None:
    store = await own_store(owner)
    one, other, unlogged = [await make_product(owner.database, store) for _ in range(3)]
    await owner.ask(UPDATE, input={"id": one, "title": "New"})
    await owner.ask(UPDATE, input={"id": other, "title": "New", "price": "11"})
    await owner.ask(UPDATE, input={"id": other, "price": "12"})
    expected = ((unlogged, 7), (other, 1), (one, 1), (other, 2))
    received = []
    for rows in (expected[:3], expected[3:]):
        given = {"rows": [{"id": id_, "price": "2", "expectedVersion": version} for id_, version in rows]}
        received += (await owner.ask(BULK, input=given))["bulkUpdateProducts"]["userErrors"]
    assert [(e["currentVersion"], e["changedFields"]) for e in received] == [
        (1, []),
        (3, ["price", "title"]),
        (2, ["title"]),
        (3, ["price"]),
    ]


async def test_taken_handle_rejects_only_its_row(owner: Client) -> None:
    store = await own_store(owner)
    await make_product(owner.database, store, handle="taken")
    good, bad = await make_product(owner.database, store), await make_product(owner.database, store)
    rows = [{"id": good, "price": "20"}, {"id": bad, "handle": "taken"}]
    answer = (await owner.ask(BULK, input={"rows": rows, "errorPolicy": "VALID_ROWS"}))["bulkUpdateProducts"]
    assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("ALREADY_EXISTS", ["rows", "1", "handle"])]
    assert answer["results"][0]["product"]["price"] == "20.00"


async def test_first_of_two_rows_gets_handle(owner: Client) -> None:
    store, other = await own_store(owner), await own_store(owner)
    wanting = [await make_product(owner.database, store) for _ in range(3)]
    elsewhere = await make_product(owner.database, other)
    rows: list[dict[str, str]] = [{"id": id_, "handle": "wanted"} for id_ in (*wanting[:2], elsewhere)]
    with count_statements(owner.database) as seen:
        given = {"rows": [*rows, {"id": wanting[2], "price": "2"}], "errorPolicy": "VALID_ROWS"}
        answer = (await owner.ask(BULK, input=given))["bulkUpdateProducts"]
    assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("ALREADY_EXISTS", ["rows", "1", "handle"])]
    handles = [r["product"] and r["product"]["handle"] for r in answer["results"]]
    assert handles[:3] == ["wanted", None, "wanted"] and answer["results"][3]["product"]["price"] == "2.00"
    # The sign-in, the stores of the ids, the prices of variants and their update; for each of two stores the rows, the handles,
    # the update, the former handles and the log.
    assert len(seen) == 4 + 2 * 5


async def test_unchanged_handle_does_not_conflict(owner: Client) -> None:
    store = await own_store(owner)
    one, other = await make_product(owner.database, store, handle="one"), await make_product(owner.database, store)
    rows = [{"id": other, "handle": "one"}, {"id": one, "handle": "one", "price": "3"}]
    answer = (await owner.ask(BULK, input={"rows": rows, "errorPolicy": "VALID_ROWS"}))["bulkUpdateProducts"]
    assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("ALREADY_EXISTS", ["rows", "0", "handle"])]
    assert (answer["results"][1]["product"]["handle"], answer["results"][1]["product"]["price"]) == ("one", "3.00")
