"""Documents whose answer depends on who asks. Fields declare it in their `extensions`; a document is what its fields are."""

from typing import Any

from graphql import BREAK, DocumentNode, GraphQLSchema, TypeInfo, TypeInfoVisitor, Visitor, visit

# The name under which a field of the schema says so.
PERSONAL = "personal"


def is_personal(schema: GraphQLSchema, document: DocumentNode) -> bool:
    """Whether any field that a valid document selects, through fragments too, is declared personal."""
    types = TypeInfo(schema)
    search = _Search(types)
    visit(document, TypeInfoVisitor(types, search))
    return search.found


class _Search(Visitor):
    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self._types = types
        self.found = False

    def enter_field(self, *_: Any) -> Any:
        field = self._types.get_field_def()
        self.found = field is not None and bool(field.extensions.get(PERSONAL))
        return BREAK if self.found else None
