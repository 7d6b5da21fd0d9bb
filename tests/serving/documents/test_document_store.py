"""The document cache: eviction by size, and memory."""

import gc

import pytest
from graphql import DocumentNode

from storefront.execution.executor import BreadthFirstExecutor
from storefront.schema import schema
from storefront.serving.documents.document_store import MAX_CACHED_CHARACTERS, DocumentStore
from storefront.serving.documents.limits import DocumentLimits
from storefront.serving.http.graphql_request import GraphQLRequest
from tests.client import Client


def padded(name: str, length: int) -> str:
    """A document of so many characters."""
    return f"query {name} {{ __typename }}".ljust(length, "#")


def test_document_cache_evicts_the_oldest() -> None:
    documents, part = DocumentStore(schema._schema), MAX_CACHED_CHARACTERS // 4
    first, second = (documents.find_document(GraphQLRequest(padded(name, part))) for name in ("First", "Second"))
    assert documents.find_document(GraphQLRequest(padded("First", part))) is first
    for name in ("Third", "Fourth", "Fifth"):
        documents.find_document(GraphQLRequest(padded(name, part)))
    assert documents.find_document(GraphQLRequest(padded("First", part))) is first
    assert documents.find_document(GraphQLRequest(padded("Second", part))) is not second


def test_document_larger_than_the_cache_is_served() -> None:
    query = padded("Large", MAX_CACHED_CHARACTERS + 1)
    documents = DocumentStore(schema._schema, limits=DocumentLimits(characters=len(query)))
    assert documents.find_document(GraphQLRequest(query)) is documents.find_document(GraphQLRequest(query))


DOCUMENTS = (
    "query($x: Int) { configs(first: $x) { nodes { id ...F } } } fragment F on Config { storeName }",
    '{ __type(name: "Product") { fields { name } } }',
    "mutation($x: UpdateConfigInput!) { updateConfig(input: $x) { replayed } }",
    "{ product(by: {id: 1}) { unknown } }",
)


@pytest.mark.parametrize("query", DOCUMENTS)
async def test_evicted_documents_are_freed_without_garbage_collection(shopper: Client, query: str) -> None:
    padding = MAX_CACHED_CHARACTERS // 4
    documents, executors = count_objects(DocumentNode), count_objects(BreadthFirstExecutor)
    gc.disable()
    try:
        for n in range(20):
            await shopper.post(f"{query} #{n}".ljust(padding, "#"), x=1)
        assert count_objects(DocumentNode) <= documents + 5 * 2
        assert count_objects(BreadthFirstExecutor) <= executors + 1
    finally:
        gc.enable()


def count_objects(type_: type) -> int:
    """How many objects of a type there are, after the garbage has been collected, unless that is disabled."""
    if gc.isenabled():
        gc.collect()
    return sum(isinstance(one, type_) for one in gc.get_objects())
