"""The documents that clients use: parsed and validated once, found again by the hash of their text."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from graphql import (
    ASTValidationRule,
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    Token,
    TokenKind,
    Visitor,
    get_operation_ast,
    validate,
    visit,
)

from storefront.core.errors import LimitExceeded
from storefront.execution.plan import Plans
from storefront.serving.cost import Costs
from storefront.serving.errors import InvalidDocument
from storefront.serving.limits import GENEROUS, DocumentLimits, parsed
from storefront.serving.overlapping import RULES
from storefront.serving.personal import is_personal
from storefront.serving.requests import BadRequest, GraphQLRequest

# Documents are kept up to so many characters together: what is made of one, its plans included, takes about a hundred times that.
MOST_CHARACTERS = 400_000
# Errors that are told of a document, and characters of each: it may quote what it is about.
MOST_ERRORS, MOST_WORDS = 5, 500


@dataclass(frozen=True, slots=True)
class Document:
    """A document that fits the schema, how it is executed, whether its answer depends on who asks, and what it costs.

    `hash` is that of its text: SHA-256 in hexadecimal digits.
    """

    hash: str
    size: int
    ast: DocumentNode
    plans: Plans
    is_personal: bool
    costs: Costs

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of this name, or the only one; None where that says nothing."""
        return get_operation_ast(self.ast, name)


class NotExecutable(Exception):
    """A document that cannot be run at all."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Documents:
    """The documents of a schema, the most recent ones."""

    def __init__(
        self, schema: GraphQLSchema, rules: Collection[type[ASTValidationRule]] = RULES, limits: DocumentLimits = GENEROUS
    ) -> None:
        self.schema, self._rules, self.limits = schema, rules, limits
        self._kept: OrderedDict[str, Document] = OrderedDict()
        self._characters = 0

    def find(self, request: GraphQLRequest) -> Document:
        """The document of a request, valid for the schema; raises NotExecutable."""
        if request.query is None:
            raise BadRequest('"query" must be the text of a GraphQL document.')
        return self.of_text(request.query)

    def of_text(self, text: str) -> Document:
        """The document with this text, valid for the schema; raises NotExecutable."""
        hash_ = hash_of(text)
        known = self._kept.get(hash_)
        if known is not None:
            self._kept.move_to_end(hash_)
            return known
        document = self._checked(text, hash_)
        self._keep(document)
        return document

    def _keep(self, document: Document) -> None:
        self._kept[document.hash] = document
        self._characters += document.size
        while self._characters > MOST_CHARACTERS and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._characters -= oldest.size

    def _checked(self, text: str, hash_: str) -> Document:
        try:
            ast = parsed(text, self.schema, self.limits)
            if errors := validate(self.schema, ast, self._rules, max_errors=MOST_ERRORS):
                raise NotExecutable([InvalidDocument(e.message[:MOST_WORDS], e.nodes) for e in errors])
            costs = Costs(self.schema, ast)
        except LimitExceeded as error:
            raise NotExecutable([GraphQLError(str(error), original_error=error)]) from None
        except GraphQLError as error:
            raise NotExecutable([error]) from None
        visit(ast, _Forgetter())
        return Document(hash_, len(text), ast, Plans(ast), is_personal(self.schema, ast), costs)


def hash_of(text: str) -> str:
    """By which a document is known: the SHA-256 of its text in UTF-8, in hexadecimal digits."""
    # What is no text after all, such as half a character, has a hash too: parsing refuses it.
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


class _Forgetter(Visitor):
    """Takes from a document the tokens that it was read from. Errors need the places only, and tokens are most of its memory."""

    def enter(self, node: Node, *_: Any) -> None:
        if node.loc is not None:
            node.loc.start_token = node.loc.end_token = _NO_TOKEN


_NO_TOKEN = Token(TokenKind.SOF, 0, 0, 0, 0)
