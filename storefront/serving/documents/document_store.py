"""The documents that clients use: parsed and validated once, found again by the hash of their text."""

import gc
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    Token,
    TokenKind,
    Visitor,
    get_operation_ast,
    validate,
    visit,
)

from storefront.core.errors import InvalidInput, LimitExceeded, RequestError
from storefront.execution.plan import Plans
from storefront.serving.cache.cacheability import is_personal, is_public
from storefront.serving.documents.cost import Costs
from storefront.serving.documents.input_coercion import InputLimits
from storefront.serving.documents.limits import GENEROUS, DocumentLimits, parsed
from storefront.serving.documents.manifests import UnusableManifest
from storefront.serving.documents.overlapping_fields import RULES
from storefront.serving.errors import InvalidDocument
from storefront.serving.http.graphql_request import BadRequest, GraphQLRequest, hash_of

# Documents are kept up to so many characters together: what is made of one, its plans included, takes about a hundred times that.
MOST_CHARACTERS = 150_000
# Errors that are told of a document, and characters of each: it may quote what it is about.
MOST_ERRORS, MOST_WORDS = 5, 500


@dataclass(frozen=True, slots=True)
class Document:
    """A document that fits the schema, how it is executed, whether its answer depends on who asks, its costs and input limits.

    `hash` is that of its text: SHA-256 in hexadecimal digits. The answer of what `is_public` changes with nothing but logs.
    """

    hash: str
    size: int
    ast: DocumentNode
    plans: Plans
    is_personal: bool
    is_public: bool
    costs: Costs
    inputs: InputLimits

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of this name, or the only one; None where that says nothing."""
        return get_operation_ast(self.ast, name)


class NotExecutable(Exception):
    """A document that cannot be run at all."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class UnknownDocument(RequestError):
    """A document that is asked for by the hash of its text, and is not kept (any more). Clients know the message, too."""

    code = "PERSISTED_QUERY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")


class HashesNotTaken(RequestError):
    """Documents are taken as text alone. Clients know the message, too."""

    code = "PERSISTED_QUERY_NOT_SUPPORTED"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotSupported")


class NotTrusted(RequestError):
    """A document that stands in none of the manifests, where only those are run."""

    code = "PERSISTED_QUERY_NOT_IN_LIST"


@dataclass(frozen=True, slots=True)
class Policy:
    """Which documents are run: any text or only trusted ones, texts kept for those who come with their hash (`keeps_hashes`).

    Without `introspection` the schema is not told, and mistakes are not answered with names of it.
    """

    only_trusted: bool = False
    keeps_hashes: bool = True
    introspection: bool = True


class Documents:
    """The documents of a schema: the trusted ones, by their ids, and of all others the most recent.

    Raises UnusableManifest where a trusted one does not fit the schema.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        policy: Policy = Policy(),
        trusted: Mapping[str, str] | None = None,
        limits: DocumentLimits = GENEROUS,
    ) -> None:
        self.schema, self.policy, self.limits = schema, policy, limits
        self._rules = RULES if policy.introspection else [*RULES, NoSchemaIntrospectionCustomRule]
        self._kept: OrderedDict[str, Document] = OrderedDict()
        self._characters = self._given_up = 0
        self._trusted = self._prepared(trusted or {})
        self.trusted = len(trusted or {})

    @property
    def count(self) -> int:
        """How many are kept, the trusted ones aside."""
        return len(self._kept)

    @property
    def characters(self) -> int:
        """How many characters those have."""
        return self._characters

    def names(self) -> frozenset[str]:
        """The names of the trusted operations."""
        asts = (document.ast for document in self._trusted.values())
        operations = (node for ast in asts for node in ast.definitions if isinstance(node, OperationDefinitionNode))
        return frozenset(node.name.value for node in operations if node.name)

    def knows(self, request: GraphQLRequest) -> bool:
        """Whether it takes no work to find the document, or that there is none."""
        return (
            self.policy.only_trusted
            or not request.text_hash
            or request.text_hash in self._kept
            or request.text_hash in self._trusted
        )

    def find(self, request: GraphQLRequest) -> Document:
        """The document of a request, valid for the schema; raises NotExecutable, or why there is none."""
        id_ = _bare(request.document_id or "")
        text_hash = request.text_hash
        document = self._trusted.get(id_ or text_hash or "")
        if document is None and self.policy.only_trusted:
            raise NotTrusted(_not_trusted(request.document_id))
        expected = document.hash if document and id_ else id_
        if expected and text_hash and text_hash != expected:
            raise BadRequest("The id of the document is not the hash of its text: send the SHA-256 of the very text of query.")
        if id_ and document is None and not self.policy.keeps_hashes:
            raise HashesNotTaken
        return document or self._of(text_hash or id_, request.query)

    def of_text(self, text: str) -> Document:
        """The document with this text, valid for the schema; raises NotExecutable."""
        return self._of(hash_of(text), text)

    def _of(self, hash_: str, text: str | None) -> Document:
        known = self._kept.get(hash_)
        if known is not None:
            self._kept.move_to_end(hash_)
            return known
        if text is None:
            raise UnknownDocument
        document = self._checked(text, hash_)
        self._keep(document)
        return document

    def _prepared(self, trusted: Mapping[str, str]) -> dict[str, Document]:
        """The trusted documents by their ids, and by the hashes of their texts."""
        found: dict[str, Document] = {}
        faults: list[str] = []
        for id_, text in trusted.items():
            try:
                hash_ = hash_of(text)
                found[_bare(id_)] = found[hash_] = found.get(hash_) or self._checked(text, hash_)
            except NotExecutable as refusal:
                faults += [f"{_named(id_, text)}: {error.message}" for error in refusal.errors]
        if faults:
            raise UnusableManifest("Trusted documents do not fit the schema:\n" + "\n".join(faults[:20]))
        return found

    def _keep(self, document: Document) -> None:
        self._kept[document.hash] = document
        self._characters += document.size
        while self._characters > MOST_CHARACTERS and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._characters -= oldest.size
            self._given_up += oldest.size
        if self._given_up > MOST_CHARACTERS // 2:
            # Plans lead back to themselves: only the collector can free them, which by itself seldom looks at what is old.
            self._given_up = 0
            gc.collect()

    def _checked(self, text: str, hash_: str) -> Document:
        try:
            ast = parsed(text, self.schema, self.limits)
            hides = not self.policy.introspection
            if errors := validate(self.schema, ast, self._rules, max_errors=MOST_ERRORS, hide_suggestions=hides):
                raise NotExecutable([InvalidDocument(_said(e)[:MOST_WORDS], e.nodes) for e in errors])
            inputs = InputLimits(self.schema, ast)
            costs = Costs(self.schema, ast)
        except (LimitExceeded, InvalidInput) as error:
            raise NotExecutable([GraphQLError(str(error), original_error=error)]) from None
        except GraphQLError as error:
            raise NotExecutable([error]) from None
        visit(ast, _Forgetter())
        personal, public = is_personal(self.schema, ast), is_public(self.schema, ast)
        return Document(hash_, len(text), ast, Plans(ast), personal, public, costs, inputs)


def _said(error: GraphQLError) -> str:
    # What Python says of a number with thousands of digits helps nobody who sent it.
    if isinstance(error.original_error, ValueError):
        return f"{error.message.partition(', but ')[0]}, found a number that is too large."
    return error.message


def _bare(id_: str) -> str:
    # A hash may say of itself what it is.
    return id_.removeprefix("sha256:")


def _not_trusted(id_: str | None) -> str:
    if id_ is None:
        return "Only trusted documents are run here, and this is none of them: send the id of one as documentId."
    return f"No trusted document has the id {id_[:100]!r}. Those of the manifests that the server was started with are known."


def _named(id_: str, text: str) -> str:
    operation = re.search(r"\b(query|mutation|subscription)\s+(\w+)", text)
    return f"{id_[:100]} ({operation[0]})" if operation else id_[:100]


class _Forgetter(Visitor):
    """Takes from a document the tokens that it was read from. Errors need the places only, and tokens are most of its memory."""

    def enter(self, node: Node, *_: Any) -> None:
        if node.loc is not None:
            node.loc.start_token = node.loc.end_token = _NO_TOKEN


_NO_TOKEN = Token(TokenKind.SOF, 0, 0, 0, 0)
