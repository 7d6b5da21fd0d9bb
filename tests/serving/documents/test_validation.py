"""Validation agrees with graphql-core's, and its work is bounded by the size of the document."""

from unittest.mock import patch

import pytest
from graphql import GraphQLError, NameNode, parse, print_ast, validate

from benchmarks.attacks import ATTACKS, loop, times
from storefront.execution.document_nodes import find_variable_names
from storefront.execution.strawberry_adapter import VariableUsageVisitor
from storefront.schema import schema
from storefront.serving.documents.validation import MAX_VALIDATION_ERRORS, VALIDATION_RULES, validate_document
from tests.serving.documents.test_overlapping_fields import SCHEMA as PETS
from tests.serving.documents.test_overlapping_fields import drafts

INVALID_DOCUMENTS = (
    "{ me { id(x: 1) nothing } } fragment Unused on User { id }",
    "query($x: Int, $x: ID, $unused: Int) { config(by: {id: $x, slug: $y}) { id } }",
    "query A { me { id } } query A { me { name } } { me { id } }",
    "{ me { ...F ...G } } fragment F on User { ...F } fragment F on Product { id @skip @skip(if: 1) @nope }",
    '{ products(configId: 1, filter: {ids: [{}], tags: "a", minPrice: {}, inStock: 3, nope: 4}) { nodes } }',
    "query($f: ProductFilterInput, $n: Nope) { products(configId: $f, filter: $n, sort: {key: NOPE}) { totalCount { id } } }",
    "subscription { productFeed { __typename } analyticsFeed { __typename } }",
    "{ config(by: {id: 1, id: 2}) { id { id } ... on Product { title } ... on Nope { id } } }",
    "mutation($i: [Int!]!) { nope(i: $i) trackEvents(input: {events: $i}) { recorded } }",
    "type Query { a: Int }",
    "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }",
)


def format_all(errors: list[GraphQLError]) -> list[object]:
    return [error.formatted for error in errors]


@pytest.mark.parametrize("text", [*INVALID_DOCUMENTS, loop(3), loop(30), *(attack.query for attack in ATTACKS.values())])
def test_errors_are_those_of_graphql_core(text: str) -> None:
    try:
        document = parse(text, max_tokens=1_000)
    except GraphQLError:
        return
    try:
        expected = validate(schema._schema, document, VALIDATION_RULES, max_errors=MAX_VALIDATION_ERRORS)
    except Exception as error:
        with pytest.raises(type(error)):
            validate_document(schema._schema, document)
        return
    assert format_all(validate_document(schema._schema, document)) == format_all(expected[:MAX_VALIDATION_ERRORS])


def test_errors_of_random_documents_are_those_of_graphql_core() -> None:
    invalid_count = 0
    for text in list(drafts())[:400]:
        document = parse(text)
        errors = validate_document(PETS, document)
        assert format_all(errors) == format_all(validate(PETS, document, VALIDATION_RULES)[:MAX_VALIDATION_ERRORS])
        invalid_count += bool(errors)
    assert 50 < invalid_count < 390


def test_no_rule_concerns_names() -> None:
    # They are not visited.
    assert not [rule for rule in VALIDATION_RULES if hasattr(rule, "enter_name") or hasattr(rule, "leave_name")]


def test_long_literal_is_printed_once() -> None:
    query = f"{{ config(by: {{ {times('a#: 1', 300)} }}) {{ id }} }}"
    with patch("graphql.utilities.validate_input_value.print_for_error", wraps=print_ast) as print_:
        errors = validate_document(schema._schema, parse(query))
    assert len(errors) == print_.call_count == 1
    assert "not to include unknown field 'a0'" in errors[0].message


def test_short_literal_has_all_its_errors() -> None:
    errors = validate_document(schema._schema, parse("{ config(by: {a: 1, b: 2, c: 3}) { id } }"))
    assert len(errors) >= 3


def test_nodes_are_never_hashed() -> None:
    # The hash of a node visits all nodes below it.
    document = parse(loop(50))
    with patch.object(NameNode, "__hash__", side_effect=AssertionError("hashed")):
        assert validate_document(schema._schema, document)


def test_definitions_without_variables_are_not_searched_for_them() -> None:
    fragments = times("fragment F# on User { id name }", 20)
    query = f"query($x: Boolean!) {{ me {{ id @skip(if: $x) {times('...F#', 20)} }} }} {fragments}"
    with patch("storefront.serving.documents.validation.VariableUsageVisitor", wraps=VariableUsageVisitor) as visitor:
        assert not validate_document(schema._schema, parse(query))
    assert visitor.call_count == 1


def test_variable_names_are_found_at_all_levels() -> None:
    document = parse('query($a: Int) { f(x: $a, y: [$b, {z: $c}], s: "$d") @skip(if: $a) { g(x: $e) } }')
    assert sorted(find_variable_names(document)) == ["a", "a", "a", "b", "c", "e"]
