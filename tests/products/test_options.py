"""Options of products: what shoppers choose between, and which variants the choices lead to."""

import unicodedata
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from storefront.core.db.database import Database, compile_statement
from storefront.models.options import OptionEditor
from storefront.models.variant import fold_case
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

OPTIONS = "options { name position values { value position exists available variant { name } } }"
CREATE = f"""mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{
  product {{ id {OPTIONS} variants(first: 50) {{ nodes {{ id name attributes {{ name value }} }} }} }}
  userErrors {{ code path message }} }} }}"""
UPDATE = f"""mutation($input: UpdateProductInput!) {{ updateProduct(input: $input) {{
  product {{ id version {OPTIONS} variants(first: 50) {{ nodes {{ id name attributes {{ name value }} }} }} }}
  userErrors {{ code path message }} }} }}"""
SET = f"""mutation($input: SetProductVariantsInput!) {{ setProductVariants(input: $input) {{
  product {{ id version price {OPTIONS}
    variants(first: 50) {{ nodes {{ id name price sku inventory position attributes {{ name value }} }} }} }}
  userErrors {{ code path message }} }} }}"""
SELECTED_OPTIONS = OPTIONS.replace("options {", "options(selected: $selected) {")
READ = f"query($id: ID!, $selected: [AttributeInput!]) {{ product(by: {{id: $id}}) {{ {SELECTED_OPTIONS} }} }}"


def pairs(**attributes: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in attributes.items()]


def names(options: list[dict[str, Any]]) -> dict[str, list[str]]:
    assert [option["position"] for option in options] == [*range(len(options))]
    return {option["name"]: [value["value"] for value in option["values"]] for option in options}


async def owner(client: Client) -> tuple[Client, str]:
    user = await make_user(client.database)
    return client.signed_in(user), await make_store(client.database, user_id=user)


async def change(client: Client, document: str, **values: Any) -> dict[str, Any]:
    [payload] = (await client.ask(document, input=values)).values()
    return dict(payload)


async def new_shirt(client: Client, store: str, **values: Any) -> dict[str, Any]:
    variants = [
        {"attributes": pairs(Size=size, Colour=colour), "inventory": n}
        for n, (size, colour) in enumerate([("S", "Red"), ("M", "Red"), ("XL", "Blue"), ("L", "Blue")])
    ]
    payload = await change(client, CREATE, configId=store, title="Shirt", price="10.00", variants=variants, **values)
    assert payload["userErrors"] == []
    return dict(payload["product"])


async def test_attributes_are_in_the_order_of_the_options(shopper: Client) -> None:
    client, store = await owner(shopper)
    # Neither by length nor by alphabet, as jsonb would sort them. The second variant lists them otherwise.
    attributes = [pairs(Width="2 m", Bulk="1 kg", Age="New"), pairs(Age="Old", Width="2 m", Bulk="1 kg")]
    variants = [{"attributes": given} for given in attributes]
    product = (await change(client, CREATE, configId=store, title="Rope", price="10.00", variants=variants))["product"]

    async def read(document: str, names: list[str]) -> None:
        [root] = (await client.ask(document, id=product["id"], c=store)).values()
        variants = (root["nodes"][0] if "nodes" in root else root)["variants"]["nodes"]
        assert [[pair["name"] for pair in variant["attributes"]] for variant in variants] == [names, names]

    selection = "variants(first: 5) { nodes { attributes { name value } } }"
    # Selecting __typename keeps it off the statement that makes the JSON.
    by_loader = f"query($id: ID!) {{ product(by: {{id: $id}}) {{ {selection.replace('{ name', '{ __typename name')} }} }}"
    by_statement = f"query($c: ID!) {{ products(configId: $c, first: 5) {{ nodes {{ {selection} }} }} }}"
    for document in (by_loader, by_statement):
        await read(document, ["Width", "Bulk", "Age"])
    assert [node["name"] for node in product["variants"]["nodes"]] == ["2 m / 1 kg / New", "2 m / 1 kg / Old"]
    options = [
        {"name": option["name"], "values": [{"value": v["value"]} for v in option["values"]]} for option in product["options"]
    ]
    await change(client, UPDATE, id=product["id"], options=options[::-1])
    for document in (by_loader, by_statement):
        await read(document, ["Age", "Bulk", "Width"])
    renewed = [{"attributes": given, "price": "10.00"} for given in attributes]
    payload = await change(client, SET, productId=product["id"], options=[options[1], options[2], options[0]], variants=renewed)
    assert payload["userErrors"] == []
    for document in (by_loader, by_statement):
        await read(document, ["Bulk", "Age", "Width"])


async def test_options_are_those_of_the_variants_in_the_order_given(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)
    assert names(product["options"]) == {"Size": ["S", "M", "XL", "L"], "Colour": ["Red", "Blue"]}
    listed = [{"name": "size", "values": [{"value": size} for size in ("S", "M", "L", "XL", "XXL")]}]
    product = await new_shirt(client, store, options=listed)
    # As the owner has ordered and spelled them; what no variant has is kept.
    assert names(product["options"]) == {"size": ["S", "M", "L", "XL", "XXL"], "Colour": ["Red", "Blue"]}
    assert [node["attributes"][0]["name"] for node in product["variants"]["nodes"]] == ["size"] * 4
    [unused] = [value for value in product["options"][0]["values"] if not value["exists"]]
    assert (unused["value"], unused["available"], unused["variant"]) == ("XXL", False, None)
    simple = await change(client, CREATE, configId=store, title="Mug", price="1.00")
    assert simple["product"]["options"] == []


async def test_selected_values_decide_which_values_exist_and_are_available(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)

    async def matrix(*selected: dict[str, str]) -> dict[str, tuple[bool, bool, str | None]]:
        found = (await shopper.ask(READ, id=product["id"], selected=[*selected]))["product"]["options"]
        return {
            value["value"]: (value["exists"], value["available"], value["variant"] and value["variant"]["name"])
            for option in found
            for value in option["values"]
        }

    assert await matrix() == {
        # Stock is 0, 1, 2 and 3: S is sold out, and Red has M that is not.
        "S": (True, False, "S / Red"),
        "M": (True, True, "M / Red"),
        "XL": (True, True, "XL / Blue"),
        "L": (True, True, "L / Blue"),
        "Red": (True, True, "M / Red"),
        "Blue": (True, True, "XL / Blue"),
    }
    assert await matrix(*pairs(colour="RED")) == {
        "S": (True, False, "S / Red"),
        "M": (True, True, "M / Red"),
        "XL": (False, False, None),
        "L": (False, False, None),
        # A choice does not narrow its own option.
        "Red": (True, True, "M / Red"),
        "Blue": (True, True, "XL / Blue"),
    }
    both = await matrix(*pairs(Size="S", Colour="Blue"))
    assert {value: both[value] for value in ("S", "L", "Red", "Blue")} == {
        "S": (False, False, None),
        "L": (True, True, "L / Blue"),
        "Red": (True, False, "S / Red"),
        "Blue": (False, False, None),
    }
    assert not any(exists for exists, _, _ in (await matrix(*pairs(Material="Wool"))).values())


async def test_names_and_values_are_compared_without_case(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)
    document = """mutation($input: CreateVariantInput!) { createVariant(input: $input) {
      variant { name attributes { name value } } userErrors { code path ... on AlreadyExistsError { existingId } } } }"""
    added = await change(client, document, productId=product["id"], price="1.00", attributes=pairs(colour="red", SIZE="xl"))
    assert added["variant"] == {"name": "XL / Red", "attributes": added["variant"]["attributes"]}
    assert sorted(pair["value"] for pair in added["variant"]["attributes"]) == ["Red", "XL"]
    equal = await change(client, document, productId=product["id"], price="1.00", attributes=pairs(size="s", COLOUR="RED"))
    [error] = equal["userErrors"]
    assert (error["code"], error["path"]) == ("ALREADY_EXISTS", ["attributes"])
    assert error["existingId"] == product["variants"]["nodes"][0]["id"]
    options = (await shopper.ask(READ, id=product["id"]))["product"]["options"]
    assert names(options) == {"Size": ["S", "M", "XL", "L"], "Colour": ["Red", "Blue"]}


async def test_values_go_with_the_last_variant_that_has_them(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store, options=[{"name": "Fit", "values": [{"value": "Slim"}]}])
    ids = {node["name"]: node["id"] for node in product["variants"]["nodes"]}
    delete = (
        "mutation($input: DeleteVariantInput!) { deleteVariant(input: $input) { product { options { name values { value } } } } }"
    )
    update = "mutation($input: UpdateVariantInput!) { updateVariant(input: $input) { variant { name } } }"
    await change(client, delete, id=ids["XL / Blue"])
    await change(client, update, id=ids["S / Red"], attributes=pairs(Size="XS", Colour="Red"))
    found = (await shopper.ask(READ, id=product["id"]))["product"]["options"]
    # What no variant has ever had is kept.
    assert names(found) == {"Fit": ["Slim"], "Size": ["M", "L", "XS"], "Colour": ["Red", "Blue"]}
    deleted = await change(client, delete, id=ids["L / Blue"])
    assert deleted["product"]["options"][2] == {"name": "Colour", "values": [{"value": "Red"}]}


async def test_options_are_reordered_renamed_and_given_swatches(shopper: Client) -> None:
    client, store = await owner(shopper)
    image = "https://images.example.com/red.jpg"
    product = await new_shirt(client, store, images=[image])
    document = (
        "query($id: ID!) { product(by: {id: $id}) { options { id name values { id value swatch { color image { url } } } } } }"
    )
    _, colour = (await shopper.ask(document, id=product["id"]))["product"]["options"]
    red, blue = colour["values"]
    renamed = [
        {"id": colour["id"], "name": "Color", "values": [
            {"id": blue["id"], "value": "Navy", "swatch": {"color": "#000080"}},
            {"value": "red", "swatch": {"image": image}},
        ]},
        {"name": "Size", "values": [{"value": size} for size in ("S", "M", "L", "XL")]},
    ]  # fmt: skip
    payload = await change(client, UPDATE, id=product["id"], options=renamed)
    assert payload["userErrors"] == []
    assert names(payload["product"]["options"]) == {"Color": ["Navy", "red"], "Size": ["S", "M", "L", "XL"]}
    assert [node["name"] for node in payload["product"]["variants"]["nodes"]] == ["red / S", "red / M", "Navy / XL", "Navy / L"]
    [now, _] = (await shopper.ask(document, id=product["id"]))["product"]["options"]
    assert [value["id"] for value in now["values"]] == [blue["id"], red["id"]]
    assert [value["swatch"] for value in now["values"]] == [
        {"color": "#000080", "image": None},
        {"color": None, "image": {"url": image}},
    ]
    unlisted = [{"name": "Size", "values": [{"value": "S"}]}]
    [error] = (await change(client, UPDATE, id=product["id"], options=unlisted))["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID_STATE", ["options"])
    again = await change(client, UPDATE, id=product["id"], options=[*renamed[:1], renamed[1]])
    assert again["product"]["version"] == payload["product"]["version"]


async def test_each_stored_value_is_revised_once(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)
    document = "query($id: ID!) { product(by: {id: $id}) { options { id name values { id value } } } }"
    size, colour = (await shopper.ask(document, id=product["id"]))["product"]["options"]
    red, blue = colour["values"]
    sizes = {"name": "Size", "values": [{"value": value["value"]} for value in size["values"]]}
    # Red becomes Crimson, and another Red is new.
    values = [{"id": red["id"], "value": "Crimson"}, {"value": "Red"}, {"value": "blue"}]
    payload = await change(client, UPDATE, id=product["id"], options=[{"name": "Colour", "values": values}, sizes])
    assert payload["userErrors"] == []
    assert [node["name"] for node in payload["product"]["variants"]["nodes"]][:2] == ["Crimson / S", "Crimson / M"]
    [now, _] = (await shopper.ask(document, id=product["id"]))["product"]["options"]
    ids = [value["id"] for value in now["values"]]
    assert ids[0] == red["id"] and ids[2] == blue["id"] and len({*ids}) == 3
    entries = [{"id": size["id"], "name": name, "values": [{"value": name}]} for name in ("Fit", "Cut")]
    errors = (await change(client, UPDATE, id=product["id"], options=entries))["userErrors"]
    assert ["options", "1", "id"] in [error["path"] for error in errors]
    [error] = (await change(client, UPDATE, id=product["id"], options=None))["userErrors"]
    assert error["path"] == ["options"]


async def test_case_is_that_of_postgres_in_every_script(shopper: Client) -> None:
    client, store = await owner(shopper)
    texts = ["ΜΑΥΡΟΣ", "İstanbul", "ẞ", "ǅ", "Кружка", "Straße"]
    variants = [{"attributes": pairs(Χρώμα=text), "inventory": 1} for text in texts]
    payload = await change(client, CREATE, configId=store, title="Shirt", price="10.00", variants=variants)
    [option] = payload["product"]["options"]
    assert [(value["value"], value["exists"], value["available"]) for value in option["values"]] == [
        (text, True, True) for text in texts
    ]
    found = await shopper.ask(READ, id=payload["product"]["id"], selected=pairs(ΧΡΏΜΑ="μαυροσ"))
    assert all(value["exists"] for value in found["product"]["options"][0]["values"])


async def test_folding_is_that_of_postgres(database: Database) -> None:
    characters = [chr(code) for code in range(1, 0x1_1000) if not 0xD800 <= code <= 0xDFFF]
    rows = await database.fetch(
        compile_statement(text("SELECT given, lower(given) AS lowered FROM unnest(CAST(:given AS text[])) AS given")),
        {"given": characters},
    )
    # Python and Postgres know different versions of Unicode.
    differing = [row.given for row in rows if fold_case(row.given) != row.lowered and unicodedata.category(row.given) != "Cn"]
    assert len(differing) < 40 and all(ord(character) > 0x2FF for character in differing)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ([{"name": "Size", "values": []}], ["options", "0", "values"]),
        ([{"name": "Size", "values": [{"value": "S"}, {"value": "s"}]}], ["options", "0", "values", "1", "value"]),
        ([{"name": name, "values": [{"value": "S"}]} for name in ("Size", "SIZE")], ["options", "1", "name"]),
        ([{"name": "", "values": [{"value": "S"}]}], ["options", "0", "name"]),
        ([{"name": "Size", "values": [{"value": "S", "swatch": {}}]}], ["options", "0", "values", "0", "swatch"]),
        (
            [{"name": "Size", "values": [{"value": "S", "swatch": {"color": "nice"}}]}],
            ["options", "0", "values", "0", "swatch", "color"],
        ),
        (
            [{"name": "Size", "values": [{"value": "S", "swatch": {"image": "https://x.example/no.jpg"}}]}],
            ["options", "0", "values", "0", "swatch", "image"],
        ),
        (
            [{"id": "01a22ce1-90aa-71ee-ba5c-cbca727c027b", "name": "Size", "values": [{"value": "S"}]}],
            ["options", "0", "id"],
        ),
    ],
    ids=str,
)
async def test_invalid_options_are_rejected(shopper: Client, options: list[dict[str, Any]], path: list[str]) -> None:
    client, store = await owner(shopper)
    payload = await change(client, CREATE, configId=store, title="Shirt", price="10.00", options=options)
    assert [error["path"] for error in payload["userErrors"]] == [path] and payload["product"] is None


async def test_all_variants_are_set_at_once(shopper: Client) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)
    ids = [node["id"] for node in product["variants"]["nodes"]]
    rows = [
        {"attributes": pairs(Size="L", Colour="Green"), "price": "12.00", "sku": "NEW"},
        {"id": ids[1], "attributes": pairs(Size="S", Colour="Red"), "price": "9.00"},
        {"id": ids[0], "attributes": pairs(Size="M", Colour="Red"), "sku": "M-R"},
        {"attributes": pairs(size="xl", colour="blue"), "inventory": 7},
    ]
    payload = await change(client, SET, productId=product["id"], variants=rows)
    assert payload["userErrors"] == []
    nodes = payload["product"]["variants"]["nodes"]
    assert [(node["name"], node["price"], node["sku"], node["inventory"], node["position"]) for node in nodes] == [
        ("L / Green", "12.00", "NEW", 0, 0),
        # Two exchanged their attributes; what was omitted is as before.
        ("S / Red", "9.00", None, 1, 1),
        ("M / Red", "10.00", "M-R", 0, 2),
        ("XL / Blue", "10.00", None, 7, 3),
    ]
    assert [node["id"] for node in nodes][1:] == [ids[1], ids[0], ids[2]]
    assert names(payload["product"]["options"]) == {"Size": ["S", "M", "XL", "L"], "Colour": ["Red", "Blue", "Green"]}
    assert payload["product"]["price"] == "9.00"
    # The set has changed: who has read it before is refused.
    read = product["variants"]["nodes"]
    stale = await change(client, SET, productId=product["id"], expectedVersion=1, variants=[{"id": read[0]["id"]}])
    assert [error["code"] for error in stale["userErrors"]] == ["STALE_VERSION"]
    # The same again, by SKU and attributes, changes nothing.
    same = [
        {"sku": "NEW"},
        {"attributes": pairs(Size="S", Colour="Red")},
        {"sku": "M-R"},
        {"attributes": pairs(Size="XL", Colour="Blue")},
    ]
    again = await change(client, SET, productId=product["id"], variants=same)
    assert again == payload


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([], ["variants"]),
        ([{"attributes": pairs(Size="XXL")}], ["variants", "0", "price"]),
        ([{"id": "01a22ce1-90aa-71ee-ba5c-cbca727c027b"}], ["variants", "0", "id"]),
        (
            [{"attributes": pairs(Size="XXL"), "price": "1"}, {"attributes": pairs(size="xxl"), "price": "1"}],
            ["variants", "1", "attributes"],
        ),
        ([{"attributes": pairs(Size="XXL"), "price": "2", "compareAtPrice": "1"}], ["variants", "0", "compareAtPrice"]),
        ([{"attributes": pairs(Size="XXL"), "price": "2", "inventory": -1}], ["variants", "0", "inventory"]),
        ([{"attributes": pairs(Size="XXL"), "price": "2", "image": "https://x.example/no.jpg"}], ["variants", "0", "image"]),
    ],
    ids=str,
)
async def test_invalid_sets_of_variants_change_nothing(shopper: Client, rows: list[dict[str, Any]], path: list[str]) -> None:
    client, store = await owner(shopper)
    product = await new_shirt(client, store)
    payload = await change(client, SET, productId=product["id"], variants=rows)
    assert [error["path"] for error in payload["userErrors"]] == [path]
    found = await shopper.ask(READ, id=product["id"])
    assert found["product"]["options"] == product["options"]


LEAVES = "id name position values(first: 3) { id value position exists available swatch { color } __typename } __typename"


async def test_rows_and_json_documents_have_the_same_options(shopper: Client) -> None:
    client, store = await owner(shopper)
    options = [
        {"name": 'Größe "x"', "values": [{"value": "Ä\\b"}, {"value": "l"}, {"value": "m"}, {"value": "never"}]},
        {"name": "Colour", "values": [{"value": "Red", "swatch": {"color": "#f00"}}, {"value": "Blue"}]},
    ]
    variants = [
        {"attributes": [{"name": 'GRÖßE "x"', "value": "ä\\B"}, *pairs(colour="red")], "inventory": 0},
        {"attributes": [{"name": 'Größe "x"', "value": "L"}], "inventory": 1},
        {"attributes": pairs(Colour="Blue"), "inventory": 1, "isAvailable": False},
        {
            "attributes": [{"name": 'größe "x"', "value": "M"}, *pairs(Colour="Red")],
            "inventory": 0,
            "inventoryPolicy": "CONTINUE",
        },
    ]
    plain: dict[str, Any] = {"options": [], "variants": []}
    for title, more in (("Shirt", {}), ("Untracked", {"trackInventory": False}), ("Plain", plain)):
        given = {"configId": store, "title": title, "price": "10.00", "options": options, "variants": variants, **more}
        assert (await change(client, CREATE, **given))["userErrors"] == []
    rows = LEAVES.replace("color }", "color image { id } }")
    document = "query($c: ID!) {{ products(configId: $c, first: 5) {{ nodes {{ title options {{ {} }} }} }} }}"
    for viewer in (shopper, client):
        by_rows, by_json = [
            (await viewer.ask(document.format(fields), c=store))["products"]["nodes"] for fields in (rows, LEAVES)
        ]
        for node in by_rows:
            for value in (value for option in node["options"] for value in option["values"] if value["swatch"]):
                assert value["swatch"].pop("image") is None
        assert by_json == by_rows
        found = {node["title"]: [[v["available"] for v in o["values"]] for o in node["options"]] for node in by_json}
        assert found == {
            "Shirt": [[False, True, True], [True, False]],
            "Untracked": [[True, True, True], [True, False]],
            "Plain": [],
        }


async def test_options_of_a_page_take_no_statement_more(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for n in range(4):
        product = await make_product(
            shopper.database,
            store,
            options=[{"id": str(n), "name": "Size", "values": [{"id": "S", "value": "S", "swatch": None}]}],
        )
        await make_variant(shopper.database, product, attributes={"Size": "S"}, inventory=n)
    fields = OPTIONS.replace("variant { name }", "")
    document = "query($c: ID!, $first: Int!) {{ products(configId: $c, first: $first) {{ nodes {{ id {} }} }} }}"
    counts = []
    for first, selected in ((4, ""), (1, fields), (4, fields)):
        with count_statements(shopper.database) as statements:
            nodes = (await shopper.ask(document.format(selected), c=store, first=first))["products"]["nodes"]
        counts.append(len(statements))
    assert [node["options"][0]["values"][0]["available"] for node in nodes] == [True, True, True, False]
    assert len({*counts}) == 1


async def test_matrix_of_2000_variants_is_small(shopper: Client) -> None:
    client, store = await owner(shopper)
    variants = [
        {"attributes": pairs(Size=f"S{size}", Colour=f"C{colour}", Fit=f"F{fit}"), "inventory": 1}
        for size in range(20)
        for colour in range(10)
        for fit in range(10)
    ]
    payload = await change(client, CREATE, configId=store, title="Shirt", price="10.00", variants=variants)
    document = READ.replace("variant { name }", "").replace("position", "")
    for most in (3, 2):
        # The store of the id is looked up once.
        with count_statements(shopper.database) as statements:
            found = await shopper.ask(document, id=payload["product"]["id"], selected=pairs(Size="S1"))
        assert len(statements) <= most
    assert [len(option["values"]) for option in found["product"]["options"]] == [20, 10, 10]
    assert len(orjson.dumps(found)) <= 4_096


def test_editor_leaves_the_given_options_alone() -> None:
    given = [{"id": "1", "name": "Size", "values": [{"id": "2", "value": "S", "swatch": None}]}]
    editor = OptionEditor(given)
    assert editor.adopt({"size": "s", "Colour": "Red"}) == {"Size": "S", "Colour": "Red"}
    editor.drop_unused([{"SIZE": "S"}], [])
    assert [option["name"] for option in editor.options] == ["Colour"] and given[0]["values"]
