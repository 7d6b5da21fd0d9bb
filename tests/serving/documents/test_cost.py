"""Static cost analysis: fields times list sizes."""

from typing import Any

import pytest
from graphql import (
    GraphQLField,
    OperationDefinitionNode,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_input_type,
    is_list_type,
    parse,
)

from storefront.schema import schema
from storefront.serving.documents.cost import COST_EXTENSION_KEY, DocumentCosts, FieldCost

SCHEMA = schema._schema


def cost(query: str, **variables: Any) -> int:
    """Of the first operation of a document."""
    document = parse(query)
    operation = next(one for one in document.definitions if isinstance(one, OperationDefinitionNode))
    return DocumentCosts(SCHEMA, document).estimate(operation, variables)


PAGE = "query($n: Int, $m: Int = 2) { configs(first: $n) { nodes { id products(last: $m) { nodes { title } } } } }"


@pytest.mark.parametrize(
    ("query", "variables", "expected"),
    [
        ("{ me { id } }", {}, 2),
        ("{ configs { nodes { id } } }", {}, 1 + 1 + 20),
        ("{ configs(first: 7) { nodes { id } } }", {}, 1 + 1 + 7),
        ("{ configs(first: 7) { edges { cursor node { id } } } }", {}, 1 + 1 + 7 * 3),
        ("{ configs(first: 100000) { nodes { id } } }", {}, 1 + 1 + 100),
        ("{ configs(first: -5) { nodes { id } } }", {}, 1 + 1),
        (PAGE, {"n": 3}, 2 + 3 * (1 + 2 + 2)),
        (PAGE, {"n": 3, "m": 4}, 2 + 3 * (1 + 2 + 4)),
        (PAGE, {"n": None}, 2 + 20 * (1 + 2 + 2)),
        (PAGE, {}, 2 + 20 * (1 + 2 + 2)),
        (PAGE, {"n": "no number", "m": [1, 2, 3]}, 2 + 20 * (1 + 2 + 3)),
        # Once for each name, however often it is selected.
        ("{ me { id } me { id name } ...F } fragment F on Query { me { id } }", {}, 3),
        ("{ me { id again: id } }", {}, 3),
        # What a condition leaves out is not counted, unless something else selects it too.
        ("query($b: Boolean!) { me { id name @include(if: $b) } }", {"b": True}, 3),
        ("query($b: Boolean!) { me { id name @include(if: $b) } }", {"b": False}, 2),
        ("query($b: Boolean = true) { me { id ... @skip(if: $b) { name } } }", {}, 2),
        ("query($b: Boolean!) { me { id ...F @include(if: $b) } } fragment F on User { id name }", {"b": False}, 2),
        # Declared: a weight, a size, an argument inside of an input.
        ('{ config(by: {slug: "x"}) { products { totalCount } } }', {}, 1 + 1 + 10),
        ('{ config(by: {slug: "x"}) { categories { path } } }', {}, 1 + 20 + 50),
        ('{ searchProducts(input: {configId: "x", limit: 30}) { products { id } } }', {}, 10 + 1 + 30),
        (
            'subscription { productList(configId: "x", first: 5) { ... on ProductListSnapshot { products { id } } } }',
            {},
            1 + 1 + 5,
        ),
        ("query($i: ProductSearchInput!) { searchProducts(input: $i) { products { id } } }", {"i": {"limit": 3}}, 10 + 1 + 3),
        ("query($i: ProductSearchInput!) { searchProducts(input: $i) { products { id } } }", {"i": {}}, 10 + 1 + 20),
        ('query($l: Int) { searchProducts(input: {configId: "x", limit: $l}) { products { id } } }', {"l": 4}, 10 + 1 + 4),
        (
            "mutation($i: TrackEventsInput!) { trackEvents(input: $i) { results { index } } }",
            {"i": {"events": [{}] * 9, "consent": True}},
            70,
        ),
        (
            'mutation { trackEvents(input: {configId: "x", consent: true, events: [{event: "a"}, {event: "b"}]}) '
            "{ results { index } } }",
            {},
            56,
        ),
        (
            'mutation($i: TrackEventsInput! = {configId: "x", consent: true, events: [{event: "a"}, {event: "b"}]}) '
            "{ trackEvents(input: $i) { results { index } } }",
            {},
            56,
        ),
        ("mutation { a: __typename b: __typename }", {}, 102),
        ("{ __typename }", {}, 1),
        ("{ __schema { types { name } } }", {}, 2 + len(SCHEMA.type_map)),
    ],
)
def test_cost_multiplies_fields_by_list_sizes(query: str, variables: dict[str, Any], expected: int) -> None:
    assert cost(query, **variables) == expected


def test_operations_have_separate_costs() -> None:
    document = parse("query A { me { id } } query B { configs(first: 3) { nodes { id } } }")
    costs = DocumentCosts(SCHEMA, document)
    found = [costs.estimate(one, {}) for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    assert found == [2, 5]


# The lists of these are as long as the field says that leads to them.
PAGES = {name for name in SCHEMA.type_map if name.endswith("Connection")} | {
    "ProductSearchPage",
    "ProductChangePage",
    "ProductListSnapshot",
}
WRITTEN = {
    "AdjustInventoryPayload.variants",
    "BulkCreateProductsPayload.results",
    "BulkUpdateProductsPayload.results",
    "BulkDeleteProductsPayload.results",
    "BulkUpsertProductsPayload.results",
    "BulkUpdateVariantsPayload.results",
    "ModerateReviewsPayload.reviews",
    "UpdateProductPricesPayload.products",
    "TrackEventsPayload.results",
}


def has_a_size(field: GraphQLField) -> bool:
    """Whether an argument or a declaration says how long a list is."""
    declared = field.extensions.get(COST_EXTENSION_KEY, FieldCost())
    return bool(
        {"first", "last"} & set(field.args) or declared.default_size or declared.size_arguments != FieldCost().size_arguments
    )


def test_every_object_list_has_a_size() -> None:
    unknown = []
    for type_ in SCHEMA.type_map.values():
        for name, field in ({} if is_input_type(type_) else getattr(type_, "fields", {})).items():
            named, is_list = get_named_type(field.type), is_list_type(get_nullable_type(field.type))
            is_sized = named.name in PAGES or (is_list and is_composite_type(named) and type_.name not in PAGES)
            unknown += [f"{type_.name}.{name}"] if is_sized and not has_a_size(field) else []
    assert {name for name in unknown if not name.startswith("__")} == WRITTEN
