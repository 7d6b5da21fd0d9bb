"""Swatches of option values, beside attributes of variants and values of facets."""

from typing import Any

import pytest

from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

LEAVES = "{ label: value swatch { shade: color __typename } name __typename }"
ROW_LEAVES = LEAVES.replace("color", "color image { url alt }")
PAGE = "query($c: ID!) {{ products(configId: $c, first: 20) {{ nodes {{ title variants {{ nodes {{ attributes {} }} }} }} }} }}"
FACET = "query($c: ID!, $f: ProductFilterInput) { products(configId: $c, filter: $f) { facets { attributes { values %s } } } }"
PATTERN = "https://images.example.com/pattern.jpg"


def option(name: str, **colors: str | None) -> dict[str, Any]:
    values = [
        {"id": f"{name}-{value}", "value": value, "swatch": color and {"color": color, "image": None}}
        for value, color in colors.items()
    ]
    return {"id": name, "name": name, "values": values}


async def new_store(client: Client) -> tuple[Client, str]:
    user = await make_user(client.database)
    return client.signed_in(user), await make_store(client.database, user_id=user)


async def make_catalogue(client: Client, store: str) -> None:
    """Insert products with swatches, without, without options, and with a picture that the product has, or no longer has."""
    options = [option("Größe", Ä="#00f", É=None), option("COLOUR", Red="#f00", Blue=None)]
    product = await make_product(client.database, store, title="Shirt", options=options)
    for n, (size, colour) in enumerate((("ä", "red"), ("é", "blue"), ('"x"\\', "Red"))):
        await make_variant(client.database, product, attributes={"GRÖẞE": size, "Colour": colour}, position=n)
    plain = await make_product(client.database, store, title="Plain", options=[])
    await make_variant(client.database, plain, attributes={"Colour": "Red"}, position=0)
    await make_variant(client.database, plain, attributes={}, position=1)
    for title, images in (("Pattern", [PATTERN]), ("Lost", [])):
        patterned = {"id": "p", "value": "Dots", "swatch": {"color": None, "image": PATTERN}}
        options = [{"id": "o", "name": "Print", "values": [patterned]}]
        product = await make_product(
            client.database, store, title=title, options=options, images=images, image_alts={PATTERN: "Dots"}
        )
        await make_variant(client.database, product, attributes={"Print": "dots"})


async def test_attributes_have_the_swatches_of_the_options(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    await make_catalogue(shopper, store)
    expected = {
        "Shirt": [["#00f", "#f00"], [None, None], [None, "#f00"]],
        "Plain": [[None], []],
        "Pattern": [[{"url": PATTERN, "alt": "Dots"}]],
        "Lost": [[None]],
    }
    for viewer in (shopper, owner):
        nodes = (await viewer.ask(PAGE.format(ROW_LEAVES), c=store))["products"]["nodes"]
        found = {
            node["title"]: [
                [swatch and (swatch["shade"] or swatch["image"]) for swatch in (each["swatch"] for each in variant["attributes"])]
                for variant in node["variants"]["nodes"]
            ]
            for node in nodes
        }
        assert found == expected


async def test_rows_and_json_documents_have_the_same_swatches(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    await make_catalogue(shopper, store)
    for viewer in (shopper, owner):
        by_rows = (await viewer.ask(PAGE.format(ROW_LEAVES), c=store))["products"]["nodes"]
        for node in by_rows:
            for variant in node["variants"]["nodes"]:
                for attribute in variant["attributes"]:
                    (attribute["swatch"] or {"image": None}).pop("image")
        with count_statements(shopper.database) as statements:
            assert (await viewer.ask(PAGE.format(LEAVES), c=store))["products"]["nodes"] == by_rows
        assert len(statements) - (viewer is owner) == 1
        # A product alone, and a product of its store.
        for document in (
            "query($c: ID!) {{ config(by: {{id: $c}}) {{ product(by: {{handle: {handle}}}) {{ {rest} }} }} }}",
            "query($c: ID!) {{ product(by: {{handle: {{configId: $c, handle: {handle}}}}}) {{ {rest} }} }}",
        ):
            rest = f"title variants {{ nodes {{ attributes {LEAVES} }} }}"
            handles = (await viewer.ask("query($c: ID!) { products(configId: $c) { nodes { handle } } }", c=store))["products"]
            for node, known in zip(handles["nodes"], by_rows, strict=True):
                found = await viewer.ask(document.format(handle=f'"{node["handle"]}"', rest=rest), c=store)
                assert (found["config"]["product"] if "config" in found else found["product"]) == known


@pytest.mark.parametrize("leaves", [LEAVES, ROW_LEAVES])
async def test_swatches_take_no_statement_per_row(shopper: Client, leaves: str) -> None:
    counts = []
    for products in (1, 12):
        store = await make_store(shopper.database)
        for _ in range(products):
            product = await make_product(shopper.database, store, options=[option("Colour", Red="#f00", Blue="#00f")])
            for colour in ("Red", "Blue"):
                await make_variant(shopper.database, product, attributes={"Colour": colour})
        with count_statements(shopper.database) as statements:
            await shopper.ask(PAGE.format(leaves), c=store)
        counts.append(len(statements))
    assert counts == ([1, 1] if leaves is LEAVES else [3, 3])


async def test_variants_found_by_id_have_swatches(shopper: Client) -> None:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store, options=[option("Colour", Red="#f00")])
    variant = await make_variant(shopper.database, product, attributes={"Colour": "Red"}, sku="RED")
    fields = "attributes { swatch { color } }"
    for query in (
        f"variant(by: {{id: $v}}) {{ {fields} }}",
        f"node(id: $v) {{ ... on ProductVariant {{ {fields} }} }}",
    ):
        [found] = (await shopper.ask(f"query($v: ID!) {{ {query} }}", v=variant)).values()
        assert found == {"attributes": [{"swatch": {"color": "#f00"}}]}


async def test_changed_swatch_is_in_the_payload_and_in_later_reads(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    product = await make_product(shopper.database, store, options=[option("Colour", Red="#f00")])
    await make_variant(shopper.database, product, attributes={"Colour": "Red"})
    query = PAGE.format(LEAVES)
    [node] = (await shopper.ask(query, c=store))["products"]["nodes"]
    assert node["variants"]["nodes"][0]["attributes"][0]["swatch"]["shade"] == "#f00"
    update = """mutation($input: UpdateProductInput!) { updateProduct(input: $input) {
      product { variants { nodes { attributes { swatch { color } } } } } userErrors { message } } }"""
    options = [{"name": "Colour", "values": [{"value": "Red", "swatch": {"color": "#a00"}}]}]
    payload = (await owner.ask(update, input={"id": product, "options": options}))["updateProduct"]
    assert payload == {
        "product": {"variants": {"nodes": [{"attributes": [{"swatch": {"color": "#a00"}}]}]}},
        "userErrors": [],
    }
    [node] = (await shopper.ask(query, c=store))["products"]["nodes"]
    assert node["variants"]["nodes"][0]["attributes"][0]["swatch"]["shade"] == "#a00"
    [facet] = (await shopper.ask(FACET % "{ swatch { color } }", c=store))["products"]["facets"]["attributes"]
    assert facet["values"] == [{"swatch": {"color": "#a00"}}]


async def test_facet_values_have_the_swatch_of_the_oldest_product(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    # The variants of the oldest products are hidden: the first one is inactive, and those of the second one are unavailable.
    for more, is_available, values in (
        ({"status": "inactive"}, True, {"Red": "#100", "Blue": "#001"}),
        ({}, False, {"Red": "#200", "Blue": "#002"}),
        ({}, True, {"Red": "#f00", "Blue": None}),
        ({"tags": ["b"]}, True, {"RED": "#e00", "Blue": "#00f"}),
    ):
        product = await make_product(shopper.database, store, options=[option("Colour", **values)], **more)
        for value in values:
            await make_variant(shopper.database, product, attributes={"Colour": value}, is_available=is_available)
    selected = "{ value isSelected swatch { color image { url } } }"

    async def read(viewer: Client, **filter_: Any) -> dict[str, Any]:
        [facet] = (await viewer.ask(FACET % selected, c=store, f=filter_))["products"]["facets"]["attributes"]
        return {each["value"]: each["swatch"] and each["swatch"]["color"] for each in facet["values"]}

    assert await read(shopper) == {"Blue": None, "Red": "#f00"}
    assert await read(shopper, tags=["b"]) == {"Blue": "#00f", "RED": "#e00"}
    assert await read(owner, statuses=["INACTIVE"]) == {"Blue": "#001", "Red": "#100"}
    # No product of the list has the selected value.
    unknown = await read(shopper, attributes=[{"name": "Colour", "values": ["Green"]}])
    assert unknown == {"Blue": None, "Red": "#f00", "Green": None}


async def test_swatches_of_all_facet_values_are_one_statement(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for n in range(30):
        product = await make_product(shopper.database, store, options=[option("Colour", **{f"c{n}": f"#{n:03}"})])
        await make_variant(shopper.database, product, attributes={"Colour": f"c{n}", "Size": "S"})
    counts = []
    for selected in ("{ value }", "{ value swatch { color } }"):
        with count_statements(shopper.database) as statements:
            facets = (await shopper.ask(FACET % selected, c=store))["products"]["facets"]["attributes"]
        counts.append(len(statements))
    found = {each["value"]: each["swatch"] for facet in facets for each in facet["values"]}
    assert found == {"S": None, **{f"c{n}": {"color": f"#{n:03}"} for n in range(30)}}
    assert counts[1] == counts[0] + 1
