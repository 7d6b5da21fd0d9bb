"""Authorization of reads: stores that the viewer may see, and data that only a store's owner may read."""

from storefront.core.errors import Forbidden, NotFound
from storefront.graph import arguments, loaders
from storefront.graph.context import Info


async def require_visible_store(info: Info, config_id: str, field: str = "configId") -> str:
    """The canonical id of a store that the viewer may see. Raises InvalidInput for `field`, and NotFound."""
    store = arguments.check_id(config_id, field)
    if await info.context.load(loaders.load_configs, store) is None:
        raise NotFound(f"configId: no published store has the id {store}.", "configId")
    return store


async def require_own_store(info: Info, config_id: str, subject: str) -> str:
    """The canonical id of a store that the viewer owns.

    Raises Unauthenticated, InvalidInput, NotFound for a store that is hidden from the viewer, else Forbidden.
    """
    info.context.require_viewer()
    store = arguments.check_id(config_id, "configId")
    if store in info.context.owned_store_ids:
        return store
    await require_visible_store(info, store)
    raise Forbidden(f"configId: only the store's owner may read {subject}.", "configId")
