"""Parses a GraphQL request, {query, operationName, variables, extensions}, from any transport."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

from storefront.core.errors import RequestError

T = TypeVar("T")


class BadRequest(RequestError):
    """Raised for a payload that is not a well-formed GraphQL request."""


def hash_document(text: str) -> str:
    """The hash of a document: the SHA-256 of its text in UTF-8, in hexadecimal digits."""
    # Text with lone surrogates has a hash as well: it is rejected later.
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """A request for one operation. Its document is given as text (`query`), by id, or both.

    `may_have_lone_surrogates`: its variables have to be checked for lone surrogates and numbers that are too large.
    `text_hash`: the hash of `query`.
    """

    query: str | None
    variables: dict[str, Any] = field(default_factory=dict)
    operation_name: str | None = None
    document_id: str | None = None
    reports_cost: bool = False
    may_have_lone_surrogates: bool = False
    text_hash: str | None = field(init=False)

    def __post_init__(self) -> None:
        # Computed once: the document store and the response cache need it.
        object.__setattr__(self, "text_hash", None if self.query is None else hash_document(self.query))


def parse_request(body: Any, *, may_have_lone_surrogates: bool = False) -> GraphQLRequest:
    """Parse and check a JSON payload. Unknown keys are ignored. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest('The request must be a JSON object with "query".')
    query = _get_typed(body, "query", str, "the text of a GraphQL document")
    variables = _get_typed(body, "variables", dict, "an object")
    name = _get_typed(body, "operationName", str, "text")
    extensions = _get_typed(body, "extensions", dict, "an object") or {}
    document_id = _parse_document_id(body, extensions, is_required=query is None)
    if query is None and document_id is None:
        raise BadRequest('"query" must be the text of a GraphQL document, or "documentId" the id of one.')
    return GraphQLRequest(
        query, variables or {}, name or None, document_id, extensions.get("cost") is True, may_have_lone_surrogates
    )


def _parse_document_id(body: Mapping[str, Any], extensions: Mapping[str, Any], *, is_required: bool) -> str | None:
    """The document id: `documentId` of the GraphQL over HTTP drafts, the hash of Apollo's persisted queries, or Relay's `id`."""
    persisted = _get_typed(extensions, "persistedQuery", dict, "an object such as {version: 1, sha256Hash}") or {}
    if persisted and persisted.get("version") != 1:
        raise BadRequest('"extensions.persistedQuery" is known in version 1 only.')
    hash_ = _get_typed(persisted, "sha256Hash", str, "64 hexadecimal digits")
    # Beside a query, `id` may belong to another protocol; without a query it must be the id of a document.
    id_ = _get_typed(body, "id", str, "text") if is_required else None
    return _get_typed(body, "documentId", str, "text") or hash_ or id_ or None


def _get_typed(mapping: Mapping[str, Any], name: str, kind: type[T], expected: str) -> T | None:
    value = mapping.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(f'"{name}" must be {expected}.')
    return value
