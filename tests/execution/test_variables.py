"""Variables are coerced as by graphql-core, or left to it."""

import gc
from typing import Any, cast

import pytest
from graphql import GraphQLList, GraphQLNonNull, GraphQLSchema, OperationDefinitionNode, build_schema, get_variable_values, parse
from graphql.execution.values import VariableValueSource
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.execution.variables import UnsupportedVariables, VariableCoercer
from storefront.schema import schema as ours

SCHEMA = build_schema("""
  enum Colour { RED GREEN }
  input Inner { name: String!, count: Int = 3, colours: [Colour!] = [RED] }
  input Outer { inner: Inner!, all: [Inner], matrix: [[Int!]!], id: ID, on: Boolean! = true, part: Float }
  input Nested { below: Nested }
  input Either @oneOf { one: Int, other: String }
  type Query { field(outer: Outer, nested: Nested, either: Either, colour: Colour): Int }
""")
ALL = "query($outer: Outer!, $list: [Outer!], $colour: Colour = GREEN, $count: Int, $flag: Boolean!) { field }"

leaves = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.sampled_from(["RED", "x", "", "1"])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
ints, texts, colours = st.integers(-(2**31), 2**31 - 1), st.text(max_size=5), st.sampled_from(["RED", "GREEN"])


def near(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly right, sometimes anything at all."""
    return st.one_of(right, right, right, right, anything)


inner = st.fixed_dictionaries(
    {"name": near(texts)}, optional={"count": near(st.none() | ints), "colours": near(st.none() | st.lists(near(colours)))}
)
outer = st.fixed_dictionaries(
    {"inner": near(inner)},
    optional={
        "all": near(st.none() | st.lists(st.none() | near(inner), max_size=3)),
        "matrix": near(st.none() | st.lists(st.lists(near(ints), max_size=3), max_size=3)),
        "id": near(st.none() | texts | ints),
        "on": near(st.booleans()),
        "part": near(st.none() | st.floats(allow_nan=False, allow_infinity=False) | ints),
        "unknown": anything,
    },
)
values = st.fixed_dictionaries(
    {"outer": near(outer), "flag": near(st.booleans())},
    optional={
        "list": near(st.none() | st.lists(outer, max_size=2)),
        "colour": near(st.none() | colours),
        "count": near(st.none() | ints),
    },
)


def operation(text: str) -> OperationDefinitionNode:
    [found] = parse(text).definitions
    assert isinstance(found, OperationDefinitionNode)
    return found


def same(schema: GraphQLSchema, node: OperationDefinitionNode, given_: dict[str, Any]) -> bool:
    """Whether the values were read; if so, they are what graphql-core makes of them."""
    expected = get_variable_values(schema, node.variable_definitions or (), given_)
    try:
        read = VariableCoercer(schema, node).coerce_values(given_)
    except UnsupportedVariables:
        return False
    assert not isinstance(expected, list), "what is wrong is for graphql-core to tell"
    # As text: a number that is none is equal to nothing. The order counts, too.
    assert repr(read.coerced) == repr(expected.coerced)
    assert [_source(one) for one in read.sources.items()] == [_source(one) for one in expected.sources.items()]
    return True


def _source(one: tuple[str, VariableValueSource]) -> str:
    name, (signature, value) = one
    return repr((name, signature.name, signature.type, value))


@settings(max_examples=400, deadline=None)
@given(values)
def test_variables_are_coerced_as_by_graphql_core(given_: dict[str, Any]) -> None:
    same(SCHEMA, operation(ALL), given_)


def test_valid_variables_are_coerced() -> None:
    inner_: dict[str, Any] = {"name": "b", "count": None, "colours": []}
    whole = {"inner": {"name": "a"}, "all": [inner_, None], "matrix": [[1], []], "id": "7"}
    assert same(SCHEMA, operation(ALL), {"outer": {"inner": {"name": "a"}}, "flag": False, "colour": "RED", "count": None})
    assert same(SCHEMA, operation(ALL), {"outer": whole, "flag": True, "list": [whole, whole], "colour": None})


@pytest.mark.parametrize(
    ("variables", "value"),
    [
        ("$v: Nested", {"below": {"below": None}}),
        ("$v: Either", {"one": 1, "other": "a"}),
        ("$v: Either", {"one": None}),
        ("$v: Either", {}),
        ("$v: Colour = RED", None),
        ("$v: [Int]", 1),
        ("$v: Query", None),
        ("$v: Missing", None),
    ],
)
def test_rare_types_are_left_to_graphql_core(variables: str, value: Any) -> None:
    given_ = {} if value is None else {"v": value}
    assert not same(SCHEMA, operation(f"query({variables}) {{ field }}"), given_)


def test_oneof_with_one_field_is_coerced() -> None:
    assert same(SCHEMA, operation("query($v: Either) { field }"), {"v": {"one": 1}})
    by = operation("query($by: ProductByInput!) { product(by: $by) { id } }")
    assert same(ours._schema, by, {"by": {"sku": {"configId": "c", "sku": "s"}}})


def test_mutation_inputs_are_coerced() -> None:
    form = {"name": "S", "price": "2.50", "attributes": [{"name": "size", "value": "S"}], "inventory": None}
    product = {"configId": "c", "title": "A mug", "price": "1", "status": "ARCHIVED", "variants": [form, form], "images": []}
    create = operation("mutation($input: CreateProductInput!) { createProduct(input: $input) { position } }")
    assert same(ours._schema, create, {"input": product})
    assert not same(ours._schema, create, {"input": {**product, "price": 1.5}})
    rows = {"rows": [{"id": "1", "price": "20"}], "errorPolicy": "VALID_ROWS", "dryRun": True}
    bulk = operation("mutation($input: BulkUpdateProductsInput!) { bulkUpdateProducts(input: $input) { position } }")
    assert same(ours._schema, bulk, {"input": rows})


def test_coercers_are_freed_with_their_document() -> None:
    """graphql-core makes the types of each document's variables anew, those that are lists or may not be null."""

    def kept(number: int) -> int:
        for n in range(number):
            text = f"query Q{n}($a{n}: [ID!]!, $input: CreateProductInput!) {{ __typename }}"
            VariableCoercer(ours._schema, cast(OperationDefinitionNode, parse(text).definitions[0]))
        gc.collect()
        return sum(isinstance(one, GraphQLNonNull | GraphQLList) for one in gc.get_objects())

    assert kept(1) == kept(20)
