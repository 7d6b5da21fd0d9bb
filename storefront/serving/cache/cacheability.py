"""What answers depend on besides the document. Fields declare it in their `extensions`; a document is what its fields are."""

from typing import Any

from graphql import BREAK, DocumentNode, GraphQLSchema, TypeInfo, TypeInfoVisitor, Visitor, visit

# The names under which a field of the schema says so: that its value depends on who asks, and that it changes without the log
# of any scope that is read for it.
PERSONAL = "personal"
VOLATILE = "volatile"


def is_personal(schema: GraphQLSchema, document: DocumentNode) -> bool:
    """Whether any field that a valid document selects, through fragments too, is declared personal."""
    return _has(schema, document, PERSONAL)


def is_public(schema: GraphQLSchema, document: DocumentNode) -> bool:
    """Whether its answer is the same to everybody who is unknown, and may be kept: no field is personal or volatile."""
    return not (_has(schema, document, PERSONAL) or _has(schema, document, VOLATILE))


def _has(schema: GraphQLSchema, document: DocumentNode, mark: str) -> bool:
    types = TypeInfo(schema)
    search = _Search(types, mark)
    visit(document, TypeInfoVisitor(types, search))
    return search.found


class _Search(Visitor):
    def __init__(self, types: TypeInfo, mark: str) -> None:
        super().__init__()
        self._types, self._mark = types, mark
        self.found = False

    def enter_field(self, *_: Any) -> Any:
        field = self._types.get_field_def()
        self.found = field is not None and bool(field.extensions.get(self._mark))
        return BREAK if self.found else None
