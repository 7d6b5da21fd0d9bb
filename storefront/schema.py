"""The GraphQL schema: root types composed of the features' fields, and the document store of a server."""

from functools import cache
from typing import Any, cast

import strawberry
from graphql import GraphQLObjectType, introspection_types, is_input_object_type
from strawberry.schema.config import StrawberryConfig
from strawberry.schema_directives import OneOf

from storefront.analytics.api import AnalyticsQuery
from storefront.analytics.dashboard import page as dashboard
from storefront.analytics.live_counters import AnalyticsSubscription
from storefront.analytics.mutations import AnalyticsMutation
from storefront.configs.api import ConfigQuery
from storefront.configs.mutations import ConfigMutation
from storefront.core.settings import Settings
from storefront.execution.arguments import bypass_strawberry_wrappers
from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY, get_graphql_schema
from storefront.graph.cache_hints import declare_field_metadata
from storefront.graph.errors import ERROR_TYPES
from storefront.graph.federation import FEDERATION_SCALARS, add_federation_fields, print_subgraph, resolve_entity_types
from storefront.graph.limits import declare_limits, omit_null_defaults
from storefront.graph.mutations import describe_mutations
from storefront.graph.permissions import guard_mutations
from storefront.graph.scalars import SCALARS
from storefront.graph.schema_directives import declare_cost_directives
from storefront.graph.types.jobs import ExportJob, ImportJob
from storefront.graph.types.node import NodeQuery, resolve_node_types
from storefront.imports.api import JobQuery, JobSubscription
from storefront.imports.mutations import JobMutation
from storefront.media.mutations import MediaMutation
from storefront.products.api import ProductQuery, ProductSubscription
from storefront.products.changes import FEED_EVENT_TYPES
from storefront.products.list_events import LIST_EVENT_TYPES
from storefront.products.mutations import ProductMutation
from storefront.reviews.mutations import ReviewMutation
from storefront.serving.documents import manifests
from storefront.serving.documents.document_store import DocumentPolicy, DocumentStore
from storefront.serving.documents.limits import DocumentLimits
from storefront.users.api import UserQuery
from storefront.users.mutations import UserMutation
from storefront.variants.mutations import VariantMutation
from storefront.webhooks.api import WebhookQuery
from storefront.webhooks.mutations import WebhookMutation


@strawberry.type(description="Entry points for reading.")
class Query(NodeQuery, UserQuery, ConfigQuery, ProductQuery, AnalyticsQuery, WebhookQuery, JobQuery):
    pass


@strawberry.type(
    description="Entry points for writing. Each mutation is one transaction. Fields are nullable, so that a request error in one "
    "does not discard the results of others in the same document."
)
class Mutation(
    UserMutation,
    ConfigMutation,
    ProductMutation,
    VariantMutation,
    MediaMutation,
    ReviewMutation,
    AnalyticsMutation,
    WebhookMutation,
    JobMutation,
):
    pass


@strawberry.type(description="Entry points for live data.")
class Subscription(ProductSubscription, AnalyticsSubscription, JobSubscription):
    pass


# The specification defines @oneOf since September 2025: tools know it, and the SDL does not define it once more.
OneOf.__strawberry_directive__.print_definition = False  # type: ignore[attr-defined]


def _build_schema(query: type) -> strawberry.Schema:
    built = strawberry.Schema(
        query,
        Mutation,
        Subscription,
        types=[*ERROR_TYPES, *FEED_EVENT_TYPES, *LIST_EVENT_TYPES, ImportJob, ExportJob],
        config=StrawberryConfig(scalar_map={**SCALARS, **FEDERATION_SCALARS}),
    )
    graph = declare_limits(declare_field_metadata(get_graphql_schema(built)))
    bypass_strawberry_wrappers(
        guard_mutations(describe_mutations(resolve_node_types(declare_cost_directives(omit_null_defaults(graph)))))
    )
    for type_ in graph.type_map.values():
        if is_input_object_type(type_) and DEFINITION_EXTENSION_KEY in type_.extensions:
            # Strawberry checks OneOf inputs during execution only; with this, graphql-core checks them in validation.
            type_.is_one_of = type_.extensions[DEFINITION_EXTENSION_KEY].is_one_of
    fix_introspection()
    return built


def _resolve_is_one_of(type_: Any, _: Any) -> bool | None:
    # Strawberry's own resolver fails for list and non-null types.
    return type_.is_one_of if is_input_object_type(type_) else None


def fix_introspection() -> None:
    """Replace the resolver of `__Type.isOneOf` by one that works for every type.

    Every schema that Strawberry builds sets its own resolver, which fails for lists, on the `__Type` that all schemas share.
    """
    cast(GraphQLObjectType, introspection_types["__Type"]).fields["isOneOf"].resolve = _resolve_is_one_of


schema = _build_schema(Query)


@cache
def build_federation_schema(*, has_service: bool) -> strawberry.Schema:
    """The schema with the root fields that a router calls; `_service`, which returns the SDL, only if asked for."""
    sdl = print_subgraph(schema.as_str()) if has_service else None
    built = _build_schema(add_federation_fields(Query, get_graphql_schema(schema), sdl))
    resolve_entity_types(get_graphql_schema(built))
    return built


def build_document_store(options: Settings) -> DocumentStore:
    """The document store for these settings, with trusted documents of manifests. Raises UnusableManifest."""
    policy = DocumentPolicy(options.trusted_documents == "only", options.persisted_queries, options.introspection)
    # The dashboard's own documents are trusted as well.
    dashboard_documents = (
        {f"dashboard/{name}": text for name, text in dashboard.load_documents().items()} if policy.only_trusted else {}
    )
    # `_service` tells what introspection tells.
    served = build_federation_schema(has_service=options.introspection) if options.federation else schema
    return DocumentStore(
        get_graphql_schema(served),
        policy,
        manifests.load_manifests(options.manifest_paths()) | dashboard_documents,
        _build_document_limits(options),
    )


def _build_document_limits(options: Settings) -> DocumentLimits:
    return DocumentLimits(
        characters=options.max_document,
        tokens=options.max_tokens,
        depth=options.max_depth,
        fields=options.max_fields,
        aliases=options.max_aliases,
        directives=options.max_directives,
        roots=options.max_root_fields,
        operations=options.max_document_operations,
        mutations=options.max_mutations,
        input_items=options.max_input_items,
        mutation_items=options.max_mutation_items,
        cost=options.max_cost,
    )
