"""Which documents are kept."""

from storefront.schema import schema
from storefront.serving.documents.document_store import MOST_CHARACTERS, Documents
from storefront.serving.documents.limits import DocumentLimits


def padded(name: str, length: int) -> str:
    """A document of so many characters."""
    return f"query {name} {{ __typename }}".ljust(length, "#")


def test_documents_are_kept_until_later_ones_take_their_room() -> None:
    documents, part = Documents(schema._schema), MOST_CHARACTERS // 4
    first, second = (documents.of_text(padded(name, part)) for name in ("First", "Second"))
    assert documents.of_text(padded("First", part)) is first
    for name in ("Third", "Fourth", "Fifth"):
        documents.of_text(padded(name, part))
    assert documents.of_text(padded("First", part)) is first
    assert documents.of_text(padded("Second", part)) is not second


def test_a_document_larger_than_all_the_room_is_answered_all_the_same() -> None:
    query = padded("Large", MOST_CHARACTERS + 1)
    documents = Documents(schema._schema, limits=DocumentLimits(characters=len(query)))
    assert documents.of_text(query) is documents.of_text(query)
