"""What owners alone may read of their stores."""

from storefront.core.errors import Forbidden, NotFound
from storefront.graph import arguments, loaders
from storefront.graph.context import Info


async def require_own_store(info: Info, config_id: str, subject: str) -> str:
    """The store's id, once it is known to be the asker's; raises otherwise. What is hidden from them is not there."""
    info.context.require_viewer()
    store = arguments.check_id(config_id, "configId")
    if store in info.context.owned_store_ids:
        return store
    if await info.context.load(loaders.load_configs, store) is None:
        raise NotFound(f"configId: no store that you may see has the id {store}.", "configId")
    raise Forbidden(f"configId: only the store's owner may read {subject}.", "configId")
