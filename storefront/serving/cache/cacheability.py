"""Cacheability of responses. Fields declare what they depend on in their `extensions`; a document inherits it from its fields."""

from typing import Any

from graphql import BREAK, DocumentNode, GraphQLSchema, TypeInfo, TypeInfoVisitor, Visitor, visit

# The keys of a field's `extensions`: its value depends on the viewer, or it changes without an entry in the log of any scope that
# is read for it.
PERSONAL_EXTENSION_KEY = "personal"
VOLATILE_EXTENSION_KEY = "volatile"


def is_personal(schema: GraphQLSchema, document: DocumentNode) -> bool:
    """Whether any field that a valid document selects, through fragments too, is declared personal."""
    return _has_marked_field(schema, document, PERSONAL_EXTENSION_KEY)


def is_public(schema: GraphQLSchema, document: DocumentNode) -> bool:
    """Whether the response is the same for all anonymous viewers and may be cached: no field is personal or volatile."""
    return not (
        _has_marked_field(schema, document, PERSONAL_EXTENSION_KEY) or _has_marked_field(schema, document, VOLATILE_EXTENSION_KEY)
    )


def _has_marked_field(schema: GraphQLSchema, document: DocumentNode, extension: str) -> bool:
    types = TypeInfo(schema)
    search = _ExtensionSearch(types, extension)
    visit(document, TypeInfoVisitor(types, search))
    return search.is_marked


class _ExtensionSearch(Visitor):
    def __init__(self, types: TypeInfo, extension: str) -> None:
        super().__init__()
        self._types, self._extension = types, extension
        self.is_marked = False

    def enter_field(self, *_: Any) -> Any:
        field = self._types.get_field_def()
        self.is_marked = field is not None and bool(field.extensions.get(self._extension))
        return BREAK if self.is_marked else None
