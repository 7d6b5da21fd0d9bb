"""Document store: caches parsed and validated documents by the hash of their text (persisted queries, trusted documents)."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    get_operation_ast,
)

from storefront.core.errors import InvalidInput, LimitExceeded, RequestError
from storefront.execution.document_nodes import get_operation_name
from storefront.execution.guards import GuardedDocument, find_guards
from storefront.execution.plan import DocumentPlans
from storefront.serving.cache.cacheability import Cacheability, find_cacheability
from storefront.serving.documents.cost import DocumentCosts
from storefront.serving.documents.input_limits import InputLimits
from storefront.serving.documents.limits import DEFAULT_DOCUMENT_LIMITS, DocumentLimits, estimate_introspections, parse_document
from storefront.serving.documents.manifests import ManifestError
from storefront.serving.documents.validation import MAX_ERROR_CHARACTERS, VALIDATION_RULES, validate_document
from storefront.serving.errors import DocumentValidationError
from storefront.serving.http.graphql_request import BadRequest, GraphQLRequest, hash_document

# The size of the document cache in characters of text. A parsed document with its plans takes about a hundred times as much.
MAX_CACHED_CHARACTERS = 150_000


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A validated document with its execution plans, cacheability, costs and input limits.

    `hash` is the SHA-256 of its text in hexadecimal digits, `size` the number of characters.
    """

    hash: str
    size: int
    ast: DocumentNode
    plans: DocumentPlans
    cacheability: Cacheability
    costs: DocumentCosts
    introspection_costs: Mapping[str | None, int]
    input_limits: InputLimits
    # None without guarded root fields.
    guarded: GuardedDocument | None

    def find_operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation with this name, or the only one if `name` is None; None if there is no such operation."""
        return get_operation_ast(self.ast, name)


class NotExecutableError(Exception):
    """Raised for a document that cannot be executed, with GraphQL errors."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class PersistedQueryNotFoundError(RequestError):
    """Raised for a hash that is not in the store (any more). Clients of automatic persisted queries check the message as well."""

    code = "PERSISTED_QUERY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")


class PersistedQueryNotSupportedError(RequestError):
    """Raised for a hash without text if persisted queries are off. Clients check the message as well."""

    code = "PERSISTED_QUERY_NOT_SUPPORTED"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotSupported")


class UntrustedDocumentError(RequestError):
    """Raised for a document that is in no manifest if only trusted documents are allowed."""

    code = "PERSISTED_QUERY_NOT_IN_LIST"


@dataclass(frozen=True, slots=True)
class DocumentPolicy:
    """Which documents are executed: any, or trusted ones only; and whether clients may send the hash of a cached one instead.

    Without `allows_introspection`, introspection is rejected and error messages suggest no names from the schema.
    """

    only_trusted: bool = False
    allows_persisted_queries: bool = True
    allows_introspection: bool = True


class DocumentStore:
    """The documents of a schema: trusted ones by id, and an LRU cache of all others.

    Raises ManifestError if a trusted document does not fit the schema.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        policy: DocumentPolicy = DocumentPolicy(),
        trusted_documents: Mapping[str, str] | None = None,
        limits: DocumentLimits = DEFAULT_DOCUMENT_LIMITS,
    ) -> None:
        self.schema, self.policy, self.limits = schema, policy, limits
        self._rules = VALIDATION_RULES if policy.allows_introspection else [*VALIDATION_RULES, NoSchemaIntrospectionCustomRule]
        self._cache: OrderedDict[str, PreparedDocument] = OrderedDict()
        self._cached_characters = 0
        self._trusted_by_key = self._prepare_trusted(trusted_documents or {})
        self.trusted_count = len(trusted_documents or {})

    @property
    def cached_count(self) -> int:
        """The number of documents in the cache, trusted ones not included."""
        return len(self._cache)

    @property
    def cached_characters(self) -> int:
        """The size of the cached documents in characters."""
        return self._cached_characters

    def get_trusted_operation_names(self) -> frozenset[str]:
        """The names of the operations in trusted documents."""
        asts = (document.ast for document in self._trusted_by_key.values())
        operations = (node for ast in asts for node in ast.definitions if isinstance(node, OperationDefinitionNode))
        return frozenset(name for name in map(get_operation_name, operations) if name)

    def can_find_without_parsing(self, request: GraphQLRequest) -> bool:
        """Whether `find_document` will not parse a new document."""
        return (
            self.policy.only_trusted
            or not request.text_hash
            or request.text_hash in self._cache
            or request.text_hash in self._trusted_by_key
        )

    def find_document(self, request: GraphQLRequest) -> PreparedDocument:
        """The validated document of a request. Raises NotExecutableError if it is invalid, RequestError if unknown."""
        id_ = _strip_hash_prefix(request.document_id or "")
        text_hash = request.text_hash
        document = self._trusted_by_key.get(id_ or text_hash or "")
        if document is None and self.policy.only_trusted:
            raise UntrustedDocumentError(_describe_untrusted(request.document_id))
        expected_hash = document.hash if document and id_ else id_
        if expected_hash and text_hash and text_hash != expected_hash:
            raise BadRequest("The id of the document is not the hash of its text: send the SHA-256 of the very text of query.")
        if id_ and document is None and not self.policy.allows_persisted_queries:
            raise PersistedQueryNotSupportedError
        return document or self._get_or_prepare(text_hash or id_, request.query)

    def _get_or_prepare(self, hash_: str, text: str | None) -> PreparedDocument:
        cached = self._cache.get(hash_)
        if cached is not None:
            self._cache.move_to_end(hash_)
            return cached
        if text is None:
            raise PersistedQueryNotFoundError
        document = self._prepare_document(text, hash_)
        self._add_to_cache(document)
        return document

    def _prepare_trusted(self, trusted_documents: Mapping[str, str]) -> dict[str, PreparedDocument]:
        """The trusted documents by id and by the hash of their text. Raises ManifestError."""
        documents: dict[str, PreparedDocument] = {}
        problems: list[str] = []
        for id_, text in trusted_documents.items():
            try:
                hash_ = hash_document(text)
                documents[_strip_hash_prefix(id_)] = documents[hash_] = documents.get(hash_) or self._prepare_document(
                    text, hash_
                )
            except NotExecutableError as not_executable:
                problems += [f"{_describe_document(id_, text)}: {error.message}" for error in not_executable.errors]
        if problems:
            raise ManifestError("Trusted documents do not fit the schema:\n" + "\n".join(problems[:20]))
        return documents

    def _add_to_cache(self, document: PreparedDocument) -> None:
        self._cache[document.hash] = document
        self._cached_characters += document.size
        while self._cached_characters > MAX_CACHED_CHARACTERS and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_characters -= oldest.size

    def _prepare_document(self, text: str, hash_: str) -> PreparedDocument:
        try:
            ast = parse_document(text, self.schema, self.limits)
            hide_suggestions = not self.policy.allows_introspection
            if errors := validate_document(self.schema, ast, self._rules, hide_suggestions=hide_suggestions):
                raise NotExecutableError(
                    [
                        DocumentValidationError(_describe_error(violation)[:MAX_ERROR_CHARACTERS], violation.nodes)
                        for violation in errors
                    ]
                )
            introspection_costs = estimate_introspections(self.schema, ast, self.limits)
            input_limits = InputLimits(self.schema, ast)
            costs = DocumentCosts(self.schema, ast)
        except (LimitExceeded, InvalidInput) as error:
            raise NotExecutableError([GraphQLError(str(error), original_error=error)]) from None
        except GraphQLError as error:
            raise NotExecutableError([error]) from None
        cacheability = find_cacheability(self.schema, ast)
        return PreparedDocument(
            hash_,
            len(text),
            ast,
            DocumentPlans(ast),
            cacheability,
            costs,
            introspection_costs,
            input_limits,
            find_guards(self.schema, ast),
        )


def _describe_error(error: GraphQLError) -> str:
    # Replaces Python's message about a number with thousands of digits.
    if isinstance(error.original_error, ValueError):
        return f"{error.message.partition(', but ')[0]}, found a number that is too large."
    return error.message


def _strip_hash_prefix(id_: str) -> str:
    # A hash may have the prefix of its algorithm.
    return id_.removeprefix("sha256:")


def _describe_untrusted(id_: str | None) -> str:
    if id_ is None:
        return (
            "Only trusted documents are run here (STOREFRONT_TRUSTED_DOCUMENTS), and this is none of them: "
            "send the id of one as documentId."
        )
    return f"No trusted document has the id {id_[:100]!r}. Those of the manifests that the server was started with are known."


def _describe_document(id_: str, text: str) -> str:
    operation = re.search(r"\b(query|mutation|subscription)\s+(\w+)", text)
    return f"{id_[:100]} ({operation[0]})" if operation else id_[:100]
