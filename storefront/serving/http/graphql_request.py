"""What a client sends as a request, whatever it came over: {query, operationName, variables, extensions}."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

from storefront.core.errors import RequestError

T = TypeVar("T")


class BadRequest(RequestError):
    """Not a GraphQL request at all."""


def hash_of(text: str) -> str:
    """By which a document is known: the SHA-256 of its text in UTF-8, in hexadecimal digits."""
    # What is no text after all, such as half a character, has a hash too: parsing refuses it.
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """One operation as a client sent it, its document as text, by an id, or both.

    Where it `may_be_torn` there are half characters in its variables, perhaps. `text_hash` is that of the text.
    """

    query: str | None
    variables: dict[str, Any] = field(default_factory=dict)
    operation_name: str | None = None
    document_id: str | None = None
    tells_cost: bool = False
    may_be_torn: bool = False
    text_hash: str | None = field(init=False)

    def __post_init__(self) -> None:
        # Worked out once: whoever looks for a document or for an answer needs it.
        object.__setattr__(self, "text_hash", None if self.query is None else hash_of(self.query))


def checked_request(given: Any, *, may_be_torn: bool = False) -> GraphQLRequest:
    """The request, once its parts are what they have to be. Parts that nobody knows are ignored."""
    if not isinstance(given, dict):
        raise BadRequest('The request must be a JSON object with "query".')
    query = _part(given, "query", str, "the text of a GraphQL document")
    variables = _part(given, "variables", dict, "an object")
    name = _part(given, "operationName", str, "text")
    extensions = _part(given, "extensions", dict, "an object") or {}
    document_id = _document_id(given, extensions, is_needed=query is None)
    if query is None and document_id is None:
        raise BadRequest('"query" must be the text of a GraphQL document, or "documentId" the id of one.')
    return GraphQLRequest(query, variables or {}, name or None, document_id, extensions.get("cost") is True, may_be_torn)


def _document_id(given: Mapping[str, Any], extensions: Mapping[str, Any], *, is_needed: bool) -> str | None:
    """The id of the document: `documentId` as drafts of GraphQL over HTTP have it, Apollo's hash, or Relay's `id`."""
    persisted = _part(extensions, "persistedQuery", dict, "an object such as {version: 1, sha256Hash}") or {}
    if persisted and persisted.get("version") != 1:
        raise BadRequest('"extensions.persistedQuery" is known in version 1 only.')
    hash_ = _part(persisted, "sha256Hash", str, "64 hexadecimal digits")
    # Beside a query an id may be anybody's: only without one does it have to be that of a document.
    id_ = _part(given, "id", str, "text") if is_needed else None
    return _part(given, "documentId", str, "text") or hash_ or id_ or None


def _part(given: Mapping[str, Any], name: str, kind: type[T], what: str) -> T | None:
    value = given.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(f'"{name}" must be {what}.')
    return value
