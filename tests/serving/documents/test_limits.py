"""Hostile documents are rejected before execution, with the limit and the actual value."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from graphql import Lexer, Source, TokenKind, get_introspection_query

from benchmarks.attacks import ATTACKS, FULL_FILTER, deep, times
from storefront.core.errors import LimitExceeded
from storefront.schema import schema
from storefront.serving.documents.document_store import DocumentStore, NotExecutableError
from storefront.serving.documents.limits import DocumentLimits
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.run.operations import Operations
from tests.client import Client
from tests.conftest import serving
from tests.factories import count_statements


@pytest.mark.parametrize("name", ATTACKS)
async def test_attacks_are_refused_before_execution(shopper: Client, name: str) -> None:
    attack = ATTACKS[name]
    with count_statements(shopper.database) as statements:
        # As ASCII: half a character cannot be said otherwise.
        body = json.dumps({"query": attack.query, "variables": dict(attack.variables)})
        answer = await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    errors = answer.json().get("errors", [])
    assert {error["extensions"]["code"] for error in errors} == ({attack.code} if attack.code else set())
    assert all(attack.details.items() <= error["extensions"].items() for error in errors)
    # A refusal is no larger than it has to be. An answer has what the database has.
    assert len(answer.content) < (8_000 if attack.code else 100_000)
    assert not (attack.code and statements)


def test_limit_error_has_limit_and_actual_value() -> None:
    documents = DocumentStore(schema._schema, limits=DocumentLimits(depth=3))
    with pytest.raises(NotExecutableError, match=r"nested too deeply: at most 3 levels allowed, not 4\."):
        documents.find_document(GraphQLRequest(deep(4)))


@pytest.mark.parametrize(
    "limit", ["characters", "tokens", "depth", "fields", "aliases", "directives", "operations", "roots", "mutations", "cost"]
)
async def test_limits_are_exact(limit: str) -> None:
    query = "mutation A { a: __typename b: __typename @skip(if: false) }"
    has = {
        "characters": len(query),
        "tokens": 17,
        "depth": 1,
        "fields": 2,
        "aliases": 2,
        "directives": 1,
        "operations": 1,
        "roots": 2,
        "mutations": 2,
        "cost": 102,
    }
    request = GraphQLRequest(query)
    await Operations(DocumentStore(schema._schema, limits=DocumentLimits(**{limit: has[limit]}))).prepare(request)
    with pytest.raises((NotExecutableError, LimitExceeded)):
        await Operations(DocumentStore(schema._schema, limits=DocumentLimits(**{limit: has[limit] - 1}))).prepare(request)


@pytest.mark.parametrize(
    ("selections", "is_refused"),
    [
        ("title a: title b: title c: title d: title e: title", False),
        ("a: title b: title c: title d: title e: title f: title", True),
        ("a: title b: title c: title ...F ... on Product { d: title e: title f: title }", True),
        ("a: title b: title c: title ...F variants(first: 1) { nodes { product { d: title e: title f: title } } }", True),
        ("a: title b: title c: title d: title e: title ...F variants(first: 1) { nodes { f: sku g: sku h: name } }", False),
        (" ".join(f"a{n}: __typename" for n in range(20)), False),
        (" ".join(f"a{n}: related(first: {n + 1}) {{ title }}" for n in range(8)), False),
    ],
)
def test_aliases_of_one_field_are_limited(selections: str, is_refused: bool) -> None:
    fragment = "fragment F on Product { a: title b: title }" if "...F" in selections else ""
    query = f"query($id: ID!) {{ product(by: {{id: $id}}) {{ {selections} }} }} {fragment}"
    documents = DocumentStore(schema._schema, limits=DocumentLimits())
    if is_refused:
        with pytest.raises(NotExecutableError, match=r"Product\.title has too many aliases"):
            documents.find_document(GraphQLRequest(query))
    else:
        documents.find_document(GraphQLRequest(query))


SEARCHES = """query($q: String, $f: ProductFilterInput = {tags: ["a", "b"]}) {
  configs { nodes { a: products(search: $q) { totalCount } b: products(filter: $f) { totalCount } ...F ...F } }
}
fragment F on Config { products(filter: {ids: ["1", "2", "3"]}) { totalCount } }"""


@pytest.mark.parametrize(
    ("query", "variables", "expected"),
    [
        ("{ me { id } }", {}, 0),
        # A search, two tags, and twice the three ids of the fragment; the stores do not multiply them.
        (SEARCHES, {}, 250 + 2 + 2 * 3),
        (SEARCHES, {"f": {"tags": ["a"], "attributes": [{"name": "a", "values": ["b", "c"]}]}}, 250 + 1 + 3 + 2 * 3),
        ('{ searchProducts(input: {configId: "x", q: "y"}) { products { id } } }', {}, 250),
        # An event counts as twenty; variables, literals and defaults are the same.
        ("mutation($i: TrackEventsInput!) { trackEvents(input: $i) { recorded } }", {"i": {"events": [{}] * 9}}, 9 * 30),
        (
            "mutation($e: [AnalyticsEventInput!]!) { trackEvents(input: {configId: 1, events: $e, consent: true}) { recorded } }",
            {"e": [{}] * 9},
            9 * 30,
        ),
        (
            'mutation { trackEvents(input: {configId: 1, events: [{event: "a"}, {event: "b"}], consent: true}) { recorded } }',
            {},
            2 * 30,
        ),
        (
            'mutation($i: TrackEventsInput! = {configId: 1, events: [{event: "a"}], consent: true}) '
            "{ a: trackEvents(input: $i) { recorded } b: trackEvents(input: $i) { recorded } }",
            {},
            2 * 30,
        ),
        (
            "mutation($i: CreateProductInput!) { a: createProduct(input: $i) { replayed } ...F } "
            "fragment F on Mutation { b: createProduct(input: $i) { replayed } }",
            {"i": {"tags": ["a", "b"], "images": ["c"]}},
            2 * 3,
        ),
    ],
)
def test_input_items_are_counted_per_field(query: str, variables: dict[str, Any], expected: int) -> None:
    document = DocumentStore(schema._schema).find_document(GraphQLRequest(query))
    operation = document.find_operation(None)
    assert operation and document.input_limits.count_items(operation, variables) == expected


async def test_input_items_are_limited_per_operation() -> None:
    query = "query($f: ProductFilterInput) { configs { nodes { a: products(filter: $f) { totalCount } } } }"
    operations = Operations(DocumentStore(schema._schema, limits=DocumentLimits(input_items=100)))
    await operations.prepare(GraphQLRequest(query, {"f": {"tags": ["a"] * 100}}))
    with pytest.raises(LimitExceeded, match=r"fewer fields: at most 100 items allowed, not 101\.") as refusal:
        await operations.prepare(GraphQLRequest(query, {"f": {"tags": ["a"] * 100, "ids": ["b"]}}))
    assert refusal.value.details == {"limit": "inputItems", "maximum": 100, "found": 101}


async def test_items_of_mutations_have_a_limit_of_their_own() -> None:
    operations = Operations(DocumentStore(schema._schema, limits=DocumentLimits(input_items=1, mutation_items=100)))
    query = (
        "mutation($i: CreateProductInput!) { a: createProduct(input: $i) { replayed } b: createProduct(input: $i) { replayed } }"
    )
    await operations.prepare(GraphQLRequest(query, {"i": {"tags": ["a"] * 50}}))
    with pytest.raises(LimitExceeded, match=r"Send them in parts: at most 100 items allowed, not 102\.") as refusal:
        await operations.prepare(GraphQLRequest(query, {"i": {"tags": ["a"] * 51}}))
    assert refusal.value.details == {"limit": "mutationItems", "maximum": 100, "found": 102}


async def test_full_filter_with_search_is_within_the_limits() -> None:
    query = 'query($f: ProductFilterInput) { configs { nodes { products(filter: $f, search: "lamp") { totalCount } } } }'
    await Operations(DocumentStore(schema._schema)).prepare(GraphQLRequest(query, {"f": FULL_FILTER}))


WHOLE: dict[str, Any] = {"specified_by_url": True, "schema_description": True, "input_value_deprecation": True}
# GraphiQL, Apollo, Relay, GraphQL Code Generator and most others send graphql-js's query, in one of its versions.
INTROSPECTIONS = {
    "graphql-core": get_introspection_query(),
    "graphql-core, without descriptions": get_introspection_query(descriptions=False),
    "graphql-core, all options": get_introspection_query(**WHOLE, directive_is_repeatable=True),
    "graphql-js 16.11": get_introspection_query(**WHOLE).replace("specifiedByURL", "specifiedByURL isOneOf"),
    "Apollo's possible types": "{ __schema { types { kind name possibleTypes { name } } } }",
    "Apollo's features": '{ __schema { directives { name args { name } } } __type(name: "Query") { fields { name } } }',
    "several types": '{ a: __type(name: "Product") { ...T } b: __type(name: "Variant") { ...T } } '
    "fragment T on __Type { name fields { name type { name kind ofType { name kind } } } }",
    "values of a form": '{ __type(name: "CreateProductInput") { inputFields { name type { name enumValues { name } } } } }',
    "types of all fields": "{ __schema { types { name fields { name type { name enumValues { name } } } } } }",
}


@pytest.mark.parametrize("name", INTROSPECTIONS)
async def test_introspection_is_within_the_limits(name: str) -> None:
    await Operations(DocumentStore(schema._schema)).prepare(GraphQLRequest(INTROSPECTIONS[name]))


async def test_introspection_is_limited_per_operation() -> None:
    twice = "query A { ...F } query B { ...F } fragment F on Query { __schema { types { fields { name args { name } } } } }"
    await Operations(DocumentStore(schema._schema)).prepare(GraphQLRequest(twice, operation_name="A"))
    refused = times("a#: __schema { types { fields { name args { name } } } }", 9)
    with pytest.raises(NotExecutableError, match="Introspection costs too much"):
        DocumentStore(schema._schema).find_document(GraphQLRequest(f"{{ {refused} }}"))


@pytest.mark.parametrize(
    "text",
    [
        '{ a(b: "x \\" # y", c: -1.5e3, d: """ " \\""" " """) ...F @skip(if: $x) } # end }',
        "query Q($a: [Int!]! = [1,2,3]) { a b }",
        '{ a(b: """""", c: "", d: "\\\\", e: 0) }',
    ],
)
def test_tokens_are_counted_as_the_parser_counts_them(text: str) -> None:
    lexer, number = Lexer(Source(text)), 0
    while lexer.advance().kind is not TokenKind.EOF:
        number += 1
    with pytest.raises(NotExecutableError) as refusal:
        DocumentStore(schema._schema, limits=DocumentLimits(tokens=number - 1)).find_document(GraphQLRequest(text))
    assert refusal.value.errors[0].message == f"The document is too long: at most {number - 1} tokens allowed, not {number}."


async def test_cost_is_reported_on_request(shopper: Client) -> None:
    request = {"query": "query($n: Int!) { configs(first: $n) { nodes { id } } }", "variables": {"n": 5}}
    for extensions, received in (
        ({"cost": True}, {"cost": {"estimate": 7, "maximum": 100_000}}),
        ({"cost": "yes"}, None),
        (None, None),
    ):
        answer = await shopper.http.post("/graphql", json={**request, "extensions": extensions})
        assert answer.json().get("extensions") == received


@asynccontextmanager
async def slow_socket(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose client says that much is to come."""
    reader, writer = await asyncio.open_connection(client.http.base_url.host, client.http.base_url.port)
    writer.write(b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_slow_body_times_out(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, body_timeout=1.5) as client, slow_socket(client) as (reader, writer):
        for _ in range(3):
            await asyncio.sleep(0.1)
            writer.write(b" ")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"within 1.5 s" in answer


@pytest.mark.parametrize(
    "variables",
    [{"x": [1] * 20_001}, {"x": {str(n): [{}, n, n] for n in range(15_000)}}, {"x": [[]] * 20_001}, {"x": ["a,b"] * 20_001}],
    ids=["list", "objects", "empty", "texts"],
)
async def test_variables_with_too_many_values_are_refused(shopper: Client, variables: Any) -> None:
    with count_statements(shopper.database) as statements:
        error = await shopper.refusal("query($x: [Int!]) { products(configId: $x) { totalCount } }", **variables)
    assert (error["extensions"]["limit"], error["extensions"]["maximum"]) == ("values", 20_000)
    assert not statements


async def test_commas_in_strings_are_not_values(shopper: Client) -> None:
    error = await shopper.refusal("query($x: String!) { config(by: {slug: $x}) { id } }", x="," * 30_000)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"


async def test_batch_of_hundred_requests_is_refused(shopper: Client) -> None:
    with count_statements(shopper.database) as statements:
        answer = await shopper.http.post("/graphql", json=[{"query": "{ configs { totalCount } }"}] * 100)
    assert (answer.status_code, statements) == (400, [])
