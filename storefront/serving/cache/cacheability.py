"""Cacheability of responses. Fields declare what they depend on in their `extensions`; a document inherits it from its fields."""

from typing import NamedTuple

from graphql import DocumentNode, GraphQLSchema

from storefront.serving.documents.field_merging import iterate_document_fields

# The keys of a field's `extensions`: its value depends on the viewer, or it changes without an entry in the log of any scope that
# is read for it.
PERSONAL_EXTENSION_KEY = "personal"
VOLATILE_EXTENSION_KEY = "volatile"


class Cacheability(NamedTuple):
    """What the response of a document depends on.

    `is_personal`: on the viewer. `is_public`: it is the same for all anonymous viewers, and changes only with the logs that it
    reads.
    """

    is_personal: bool
    is_public: bool


def find_cacheability(schema: GraphQLSchema, document: DocumentNode) -> Cacheability:
    """The cacheability of a valid document, from all fields that it selects, through fragments too."""
    markers = {
        key
        for occurrence in iterate_document_fields(schema, document)
        if occurrence.definition is not None
        for key in occurrence.definition.extensions
        if occurrence.definition.extensions[key]
    }
    is_personal = PERSONAL_EXTENSION_KEY in markers
    return Cacheability(is_personal, not is_personal and VOLATILE_EXTENSION_KEY not in markers)
