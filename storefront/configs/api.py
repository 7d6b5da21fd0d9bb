"""Root fields that read stores."""

from typing import Annotated, cast

import strawberry

from storefront.graph import arguments, loaders
from storefront.graph.cache_hints import VOLATILE
from storefront.graph.context import Info
from storefront.graph.pagination import After, First
from storefront.graph.types.catalogue import Config, ConfigConnection
from storefront.models.rows import ConfigRow
from storefront.queries import configs


@strawberry.input(one_of=True, description="Identifies a store. Exactly one field.")
class ConfigByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the store.")
    slug: str | None = strawberry.field(default=strawberry.UNSET, description="Slug of the store.")


@strawberry.type
class ConfigQuery:
    @strawberry.field(description="A store; null if it does not exist or is not visible.")
    async def config(
        self, info: Info, by: Annotated[ConfigByInput, strawberry.argument(description="How the store is identified.")]
    ) -> Config | None:
        return cast(Config | None, await _find_config(info, by))

    # Publishing a store moves its own log, which is not a dependency of a page without that store.
    @strawberry.field(description="Published stores, newest first.", metadata=VOLATILE)
    async def configs(self, info: Info, first: First = 20, after: After = None) -> ConfigConnection | None:
        page = await configs.load_published_stores(info.context.read_database, arguments.build_window(first, after))
        return ConfigConnection(page=page, count=lambda: configs.count_published_stores(info.context.read_database))


async def _find_config(info: Info, by: ConfigByInput) -> ConfigRow | None:
    if isinstance(by.id, str):
        return await info.context.load(loaders.load_configs, arguments.check_id(by.id, "by.id"))
    return await configs.load_store_by_slug(
        info.context.read_database, arguments.check_text(by.slug or "", "by.slug"), [*info.context.owned_store_ids]
    )
