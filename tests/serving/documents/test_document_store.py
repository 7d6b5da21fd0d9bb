"""The document cache: eviction by size."""

from storefront.schema import schema
from storefront.serving.documents.document_store import MAX_CACHED_CHARACTERS, DocumentStore
from storefront.serving.documents.limits import DocumentLimits


def padded(name: str, length: int) -> str:
    """A document of so many characters."""
    return f"query {name} {{ __typename }}".ljust(length, "#")


def test_document_cache_evicts_the_oldest() -> None:
    documents, part = DocumentStore(schema._schema), MAX_CACHED_CHARACTERS // 4
    first, second = (documents.find_by_text(padded(name, part)) for name in ("First", "Second"))
    assert documents.find_by_text(padded("First", part)) is first
    for name in ("Third", "Fourth", "Fifth"):
        documents.find_by_text(padded(name, part))
    assert documents.find_by_text(padded("First", part)) is first
    assert documents.find_by_text(padded("Second", part)) is not second


def test_document_larger_than_the_cache_is_served() -> None:
    query = padded("Large", MAX_CACHED_CHARACTERS + 1)
    documents = DocumentStore(schema._schema, limits=DocumentLimits(characters=len(query)))
    assert documents.find_by_text(query) is documents.find_by_text(query)
