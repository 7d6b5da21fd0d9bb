"""Root fields that read stores."""

from typing import Annotated, cast

import strawberry

from storefront.graph import arguments, loaders
from storefront.graph.at_least import AtLeast, read_at_least
from storefront.graph.cache_hints import VOLATILE
from storefront.graph.context import Info
from storefront.graph.json_pushdown import find_handle_lookup
from storefront.graph.pagination import After, First
from storefront.graph.types.catalogue import Config, ConfigConnection
from storefront.models.rows import ConfigRow
from storefront.queries import configs


@strawberry.input(one_of=True, description="Identifies a store. Exactly one field.")
class ConfigByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the store.")
    slug: str | None = strawberry.field(default=strawberry.UNSET, description="Current or former slug of the store.")


@strawberry.type
class ConfigQuery:
    @strawberry.field(
        description="A store; null if it does not exist or is not visible. Former slugs are followed: compare `Config.slug` to "
        "redirect."
    )
    async def config(
        self,
        info: Info,
        by: Annotated[ConfigByInput, strawberry.argument(description="How the store is identified.")],
        at_least: AtLeast = None,
    ) -> Config | None:
        await read_at_least(info.context, arguments.check_id(by.id, "by.id") if isinstance(by.id, str) else None, at_least)
        return cast(Config | None, await _find_config(info, by))

    # Publishing a store moves its own log, which is not a dependency of a page without that store.
    @strawberry.field(description="Published stores, newest first.", metadata=VOLATILE)
    async def configs(self, info: Info, first: First = 20, after: After = None) -> ConfigConnection | None:
        page = await configs.load_published_stores(info.context.read_database, arguments.build_window(first, after))
        return ConfigConnection(page=page, count=lambda: configs.count_published_stores(info.context.read_database))


async def _find_config(info: Info, by: ConfigByInput) -> ConfigRow | None:
    if isinstance(by.id, str):
        return await info.context.load(loaders.load_configs, arguments.check_id(by.id, "by.id"))
    slug, context = arguments.check_text(by.slug or "", "by.slug"), info.context
    # The document is that of a shopper; owners may see more.
    lookup = None if context.owned_store_ids else find_handle_lookup(info)
    if lookup is None:
        return await configs.load_store_by_slug(context.read_database, slug, [*context.owned_store_ids])
    # The address of a page is one statement.
    handle, document = lookup
    store, product = await configs.load_store_and_product(context.read_database, slug, handle, document)
    if store:
        context.prime(loaders.load_config_product, store.id, product, "handle", handle, document)
    return store
