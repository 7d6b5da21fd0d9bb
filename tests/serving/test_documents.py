"""Which documents are kept."""

from storefront.schema import schema
from storefront.serving.operations import MOST_CHARACTERS, Operations


def padded(name: str, length: int) -> str:
    """A document of so many characters."""
    return f"query {name} {{ __typename }}".ljust(length, "#")


def test_documents_are_kept_until_later_ones_take_their_room() -> None:
    operations, part = Operations(schema._schema), MOST_CHARACTERS // 4
    first, second = (operations.document(padded(name, part)) for name in ("First", "Second"))
    assert operations.document(padded("First", part)) is first
    for name in ("Third", "Fourth", "Fifth"):
        operations.document(padded(name, part))
    assert operations.document(padded("First", part)) is first
    assert operations.document(padded("Second", part)) is not second


def test_a_document_larger_than_all_the_room_is_answered_all_the_same() -> None:
    operations, query = Operations(schema._schema), padded("Large", MOST_CHARACTERS + 1)
    assert operations.document(query) is operations.document(query)
