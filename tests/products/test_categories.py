"""Category trees, breadcrumbs, and filters that include what is below a category."""

from typing import Any

import pytest
from sqlalchemy import text

from storefront.core.db.database import Database, compile_statement
from storefront.graph import loaders
from storefront.graph.context import Context
from storefront.models.categories import list_category_paths, normalize_category, split_category
from storefront.queries.keyset import Window
from storefront.queries.listing import UNORDERED, Listing, Selection, StoreScope
from storefront.queries.spelling import SpellingCorrector
from storefront.queries.visibility import Audience
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user

TREE = """query($s: ID!) { config(by: { id: $s }) { categories { ...C children { ...C children { ...C } } } } }
fragment C on Category { path productCount }"""
CATEGORY = """query($s: ID!, $by: CategoryByInput!) { config(by: { id: $s }) { category(by: $by) {
  id name path handle productCount parent { path } ancestors { path } children(first: 2) { name } } } }"""
# With spaces and empty names, as files have them.
SHELF = [
    *("Home > Lighting > Lamps", "Home>Lighting>Lamps", "Home > Lighting", " Home >Textiles", "Home", "Clothing > Shirts"),
    *("Clothing > Shirts", "Одежда > Рубашки", "茶碗", "> Home > > Lighting >"),
]


async def make_shelf(database: Database, store: str) -> None:
    for category in SHELF:
        await make_product(database, store, category=category)
    await make_product(database, store, category="Home > Secret", status="inactive")
    await make_product(database, store)


@pytest.fixture
async def store(shopper: Client) -> str:
    store = await make_store(shopper.database)
    await make_shelf(shopper.database, store)
    await make_product(shopper.database, await make_store(shopper.database), category="Home > Elsewhere")
    return store


def flatten(categories: list[dict[str, Any]]) -> dict[str, int]:
    return {
        path: count
        for one in categories
        for path, count in ({one["path"]: one["productCount"]} | flatten(one.get("children", []))).items()
    }


async def sign_in_owner(shopper: Client, store: str) -> Client:
    of_store = compile_statement(text("SELECT user_id FROM configs WHERE id = CAST(:id AS uuid)"))
    [(owner_id,)] = await shopper.database.fetch(of_store, {"id": store})
    return shopper.signed_in(owner_id)


async def test_tree_counts_products_below(shopper: Client, store: str) -> None:
    tree = (await shopper.ask(TREE, s=store))["config"]["categories"]
    assert [one["path"] for one in tree] == ["Home", "Clothing", "Одежда", "茶碗"]
    counts = {
        "Home": 6, "Home > Lighting": 4, "Home > Lighting > Lamps": 2, "Home > Textiles": 1, "Clothing": 2,
        "Clothing > Shirts": 2, "Одежда": 1, "Одежда > Рубашки": 1, "茶碗": 1,
    }  # fmt: skip
    assert flatten(tree) == counts
    # The owner's products that shoppers do not see count for the owner only.
    owned = (await (await sign_in_owner(shopper, store)).ask(TREE, s=store))["config"]["categories"]
    assert flatten(owned) == {**counts, "Home": 7, "Home > Secret": 1}


@pytest.mark.parametrize(
    "path", ["Home > Lighting", "home/lighting", "Одежда > Рубашки", "одежда/рубашки", "茶碗", "Home >Lighting "]
)
async def test_category_is_found_by_path_handle_and_id(shopper: Client, store: str, path: str) -> None:
    by = {"handle": path} if "/" in path else {"path": path}
    found = (await shopper.ask(CATEGORY, s=store, by=by))["config"]["category"]
    assert found["name"] == found["path"].split(" > ")[-1]
    for same in ({"id": found["id"]}, {"handle": found["handle"]}, {"path": found["path"]}):
        assert (await shopper.ask(CATEGORY, s=store, by=same))["config"]["category"] == found


async def test_category_knows_its_place(shopper: Client, store: str) -> None:
    found = (await shopper.ask(CATEGORY, s=store, by={"path": "Home > Lighting > Lamps"}))["config"]["category"]
    assert (found["parent"], found["ancestors"]) == ({"path": "Home > Lighting"}, [{"path": "Home"}, {"path": "Home > Lighting"}])
    assert (found["handle"], found["productCount"], found["children"]) == ("home/lighting/lamps", 2, [])
    top = (await shopper.ask(CATEGORY, s=store, by={"handle": "HOME"}))["config"]["category"]
    assert (top["parent"], top["ancestors"], len(top["children"])) == (None, [], 2)


@pytest.mark.parametrize(
    "by", [{"path": "Home > Secret"}, {"handle": "home/secret"}, {"path": "Lighting"}, {"path": ">"}, {"handle": "/"}]
)
async def test_category_without_visible_products_is_none(shopper: Client, store: str, by: dict[str, str]) -> None:
    assert (await shopper.ask(CATEGORY, s=store, by=by))["config"]["category"] is None


async def test_handle_of_two_categories_finds_the_larger(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for category in ("t shirts > A", "T-Shirts > A", "T-Shirts > A", "t shirts > B"):
        await make_product(shopper.database, store, category=category)
    for handle, path in (("t-shirts", "T-Shirts"), ("t-shirts/a", "T-Shirts > A"), ("t-shirts/b", "t shirts > B")):
        assert (await shopper.ask(CATEGORY, s=store, by={"handle": handle}))["config"]["category"]["path"] == path


@pytest.mark.parametrize(
    ("categories", "total"),
    [
        (["Home"], 6), (["Home > Lighting"], 4), (["Home>Lighting>Lamps"], 2), (["Hom"], 0), (["Lighting"], 0), (["home"], 0),
        (["Home > Textiles", "Clothing"], 3), (["Home", "Home > Lighting"], 6), ([""], 0), ([">"], 0), (["Home > Secret"], 0),
    ],
)  # fmt: skip
async def test_filter_includes_categories_below(shopper: Client, store: str, categories: list[str], total: int) -> None:
    document = """query($s: ID!, $f: ProductFilterInput) {
      products(configId: $s, filter: $f, first: 1) { totalCount facets { categories { value count isSelected } } } }"""
    found = (await shopper.ask(document, s=store, f={"categories": categories}))["products"]
    assert found["totalCount"] == total
    # The facet has the numbers of such filters.
    facet = {one["value"]: one["count"] for one in found["facets"]["categories"] if one["count"]}
    assert facet == flatten((await shopper.ask(TREE, s=store))["config"]["categories"])
    search = "query($i: ProductSearchInput!) { searchProducts(input: $i) { pagination { total } } }"
    if len(categories) == 1:
        pages = await shopper.ask(search, i={"configId": store, "category": categories[0]})
        assert pages["searchProducts"]["pagination"]["total"] == total


async def test_breadcrumbs_add_no_statement(shopper: Client, store: str) -> None:
    document = "query($s: ID!) { products(configId: $s, first: 20) { nodes { category %s } } }"
    with count_statements(shopper.database) as plain:
        await shopper.ask(document % "", s=store)
    with count_statements(shopper.database) as statements:
        nodes = (await shopper.ask(document % "breadcrumbs { name path handle parent { name } }", s=store))["products"]["nodes"]
    assert len(statements) == len(plain)
    found = {node["category"]: [one["path"] for one in node["breadcrumbs"]] for node in nodes}
    assert found["Home>Lighting>Lamps"] == ["Home", "Home > Lighting", "Home > Lighting > Lamps"]
    assert (found[" Home >Textiles"], found["茶碗"], found[None]) == (["Home", "Home > Textiles"], ["茶碗"], [])


async def test_tree_of_any_depth_is_one_statement(shopper: Client, store: str) -> None:
    with count_statements(shopper.database) as bare:
        await shopper.ask("query($s: ID!) { config(by: { id: $s }) { id } }", s=store)
    with count_statements(shopper.database) as statements:
        await shopper.ask(TREE, s=store)
    assert len(statements) == len(bare) + 1


async def test_moved_product_changes_the_tree(shopper: Client, store: str) -> None:
    owner = await sign_in_owner(shopper, store)
    before = flatten((await shopper.ask(TREE, s=store))["config"]["categories"])
    page = await shopper.ask(
        'query($s: ID!) { products(configId: $s, filter: {categories: ["茶碗"]}) { nodes { id } } }', s=store
    )
    move = 'mutation($i: ID!) { updateProduct(input: { id: $i, category: "Clothing > Hats" }) { userErrors { message } } }'
    assert (await owner.ask(move, i=page["products"]["nodes"][0]["id"]))["updateProduct"]["userErrors"] == []
    after = flatten((await shopper.ask(TREE, s=store))["config"]["categories"])
    assert after == {**{path: n for path, n in before.items() if path != "茶碗"}, "Clothing": 3, "Clothing > Hats": 1}


PRODUCTS = """query($s: ID!, $f: ProductFilterInput, $q: String, $n: Int, $a: String) { config(by: { id: $s }) {
  categories { path products(filter: $f, search: $q, first: $n, after: $a, sort: { key: NAME, order: ASC }) {
    totalCount nodes { title category } pageInfo { endCursor hasNextPage } facets { categories { value count } } } } } }"""


async def list_products(client: Client, store: str, **given: Any) -> dict[str, list[str]]:
    """The titles of the products of each category at the top level."""
    categories = (await client.ask(PRODUCTS, s=store, **given))["config"]["categories"]
    return {one["path"]: [node["title"] for node in one["products"]["nodes"]] for one in categories}


async def test_tree_of_many_categories_follows_each_change(shopper: Client) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    paths = [f"{'Root' * 10} {n % 3} > {'Leaf' * 10} {n}" for n in range(150)]
    ids = [await make_product(shopper.database, store, category=path) for path in paths]
    query = "query($c: ID!) { config(by: {id: $c}) { categories { path productCount children(first: 100) { path } } } }"

    async def read(viewer: Client) -> dict[str, tuple[int, set[str]]]:
        found = (await viewer.ask(query, c=store))["config"]["categories"]
        return {each["path"]: (each["productCount"], {child["path"] for child in each["children"]}) for each in found}

    def expect(texts: list[str]) -> dict[str, tuple[int, set[str]]]:
        roots: dict[str, list[str]] = {}
        for path in texts:
            roots.setdefault(path.partition(" > ")[0], []).append(path)
        return {root: (len(below), {path for path in below if path != root}) for root, below in roots.items()}

    update = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { userErrors { message } } }"
    owner = shopper.signed_in(user)
    assert await read(shopper) == await read(shopper) == await read(owner) == expect(paths)
    for n, values in ((0, {"category": "Tab\tand\nline"}), (1, {"category": paths[0]}), (2, {"status": "INACTIVE"})):
        payload = await owner.ask(update, i={"id": ids[n], **values})
        assert payload["updateProduct"]["userErrors"] == []
        paths[n] = values.get("category", paths[n])
        hidden = [] if n < 2 else [paths[2]]
        assert await read(owner) == expect(paths)
        assert await read(shopper) == expect([path for path in paths if path not in hidden])


async def test_category_has_its_products(shopper: Client, store: str) -> None:
    filtered = """query($s: ID!, $f: ProductFilterInput) {
      products(configId: $s, filter: $f, first: 50, sort: { key: NAME, order: ASC }) { nodes { title } } }"""
    for client in (shopper, await sign_in_owner(shopper, store)):
        found = await list_products(client, store, n=50)
        assert {path: len(titles) for path, titles in found.items()}["Home"] == (6 if client is shopper else 7)
        for path, titles in found.items():
            same = (await client.ask(filtered, s=store, f={"categories": [path]}))["products"]["nodes"]
            assert titles == [node["title"] for node in same]
    assert (await list_products(shopper, store, n=50, f={"inStock": False}))["Home"] == []
    assert len((await list_products(shopper, store, n=50, f={"categories": ["Home > Lighting"]}))["Home"]) == 4


async def test_products_of_categories_have_pages(shopper: Client, store: str) -> None:
    whole = (await list_products(shopper, store, n=50))["Home"]
    [first, *_] = (await shopper.ask(PRODUCTS, s=store, n=4))["config"]["categories"]
    assert (first["path"], first["products"]["totalCount"], first["products"]["pageInfo"]["hasNextPage"]) == ("Home", 6, True)
    assert {one["value"] for one in first["products"]["facets"]["categories"]} >= {"Home", "Home > Lighting"}
    page = """query($s: ID!, $a: String) { config(by: { id: $s }) { category(by: { path: "%s" }) {
      products(first: 4, after: $a, sort: { key: NAME, order: ASC }) { nodes { title } } } } }"""
    cursor = first["products"]["pageInfo"]["endCursor"]
    rest = (await shopper.ask(page % "Home", s=store, a=cursor))["config"]["category"]["products"]["nodes"]
    assert [node["title"] for node in first["products"]["nodes"] + rest] == whole
    # A cursor belongs to its category.
    assert (await shopper.refusal(page % "Clothing", s=store, a=cursor))["extensions"]["code"] == "BAD_USER_INPUT"


async def test_search_in_categories_is_corrected(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for title, category in (("Oak chair", "Home"), ("Oak table", "Home"), ("Oak leaf", "Garden"), ("Pine table", "Garden")):
        await make_product(shopper.database, store, title=title, category=category)
    for words in ("table", "tabel"):
        assert await list_products(shopper, store, q=words, n=10) == {"Home": ["Oak table"], "Garden": ["Pine table"]}


async def test_products_of_categories_are_one_statement(shopper: Client, store: str) -> None:
    document = "query($s: ID!) { config(by: { id: $s }) { categories(first: %d) { products(first: 2) { nodes { title } } } } }"
    counts = set()
    for number in (1, 4):
        with count_statements(shopper.database) as statements:
            await shopper.ask(document % number, s=store)
        counts.add(len(statements))
    assert len(counts) == 1


DETAILS = "path image description seoTitle seoDescription"
UPDATE = f"""mutation($i: UpdateCategoryInput!) {{ updateCategory(input: $i) {{
  category {{ {DETAILS} }} position userErrors {{ code path }} }} }}"""
NOTHING = dict.fromkeys(("image", "description", "seoTitle", "seoDescription"))


async def test_owner_describes_categories(shopper: Client, store: str) -> None:
    owner = await sign_in_owner(shopper, store)

    async def update(**given: Any) -> dict[str, Any]:
        return dict((await owner.ask(UPDATE, i={"configId": store, **given}))["updateCategory"])

    lamps = {"image": "https://a.example/lamps.jpg", "description": "Light.", "seoTitle": "Lamps", "seoDescription": "All."}
    first = await update(path="Home>Lighting", **lamps)
    assert first["category"] == {"path": "Home > Lighting", **lamps} and first["position"] == "1"
    second = await update(path="Home > Lighting", description=None, seoTitle="Lights")
    present = {**lamps, "description": None, "seoTitle": "Lights"}
    assert second["category"] == {"path": "Home > Lighting", **present} and second["position"] == "2"
    assert (await update(path="Home > Lighting", seoTitle="Lights"))["position"] is None
    await update(path="Home > Secret", description="Hidden.")
    tree = f"query($s: ID!) {{ config(by: {{ id: $s }}) {{ categories {{ {DETAILS} children {{ {DETAILS} }} }} }} }}"
    with count_statements(shopper.database) as statements:
        categories = (await shopper.ask(tree, s=store))["config"]["categories"]
    assert sum("category_details" in sql for sql in statements) <= 2
    described = {one["path"]: one for top in categories for one in (top, *top["children"])}
    assert {name: described["Home > Lighting"][name] for name in NOTHING} == present
    assert {name: described["Home > Textiles"][name] for name in NOTHING} == NOTHING


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"path": "Home > Nothing"}, ("NOT_FOUND", ["path"])),
        ({"path": " > "}, ("NOT_FOUND", ["path"])),
        ({"path": "Home", "image": "nowhere"}, ("INVALID_INPUT", ["image"])),
        ({"path": "Home", "seoTitle": "x" * 256}, ("INVALID_INPUT", ["seoTitle"])),
    ],
)
async def test_invalid_details_are_refused(shopper: Client, store: str, given: dict[str, Any], error: tuple[str, Any]) -> None:
    owner = await sign_in_owner(shopper, store)
    payload = (await owner.ask(UPDATE, i={"configId": store, "description": "New", **given}))["updateCategory"]
    assert [(one["code"], one["path"]) for one in payload["userErrors"]] == [error]
    assert (payload["category"], payload["position"]) == (None, None)


@pytest.mark.parametrize(
    "category", ["", " ", ">", "> >", "a", " a ", "a>b", "a > > b", ">a>", "a\u00a0> b", "\ta\n>\vb\f", "a > b > c"]
)
def test_paths_are_normal(category: str) -> None:
    assert normalize_category(normalize_category(category)) == normalize_category(category)
    assert list_category_paths(category)[-1:] == ([normalize_category(category)] if split_category(category) else [])


PATHS = compile_statement(text("SELECT text, storefront_list_category_paths(text) FROM unnest(CAST(:texts AS text[])) AS text"))


async def test_database_lists_the_same_paths(database: Database) -> None:
    texts = [
        f"{a}{b}{c}{d}"
        for a in ("", "a", " ", ">")
        for b in (">", " > ", "\t")
        for c in ("", "b ", ">\n")
        for d in ("", "> c", "\u00a0>茶")
    ]
    for row in await database.fetch(PATHS, {"texts": texts}):
        assert row[1] == list_category_paths(row[0])
    [(paths,)] = await database.fetch(compile_statement(text("SELECT storefront_list_category_paths(NULL)")))
    assert paths == []


async def test_lists_of_a_store_and_of_its_categories_may_be_read_in_one_batch(shopper: Client, store: str) -> None:
    nothing: Any = None
    context = Context(shopper.database, SpellingCorrector(), nothing, nothing, nothing)
    scopes = [StoreScope(store), StoreScope(store, category="Home > Lighting"), StoreScope(store, category="Clothing")]
    selection = Selection(Audience.SHOPPER)
    for given in (scopes, scopes[::-1]):
        totals = await loaders.count_config_products(context, given, selection)
        assert dict(zip(given, totals, strict=True)) == dict(zip(scopes, (len(SHELF) + 1, 4, 2), strict=True))
        pages = await loaders.load_product_pages(context, given, Listing(selection, UNORDERED, Window(50)))
        assert [(one.scope, len(one.page.rows)) for one in pages] == [*zip(given, totals, strict=True)]
        facets = await loaders.load_config_facet(context, given, "availability", selection)
        assert [sum(row.count for row in rows) for rows in facets] == totals
        ranges = await loaders.load_price_buckets(context, given, selection, 2)
        assert len(ranges) == len(given)
