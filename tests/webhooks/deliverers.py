"""Deliverers in the process of the test, with thin messages, and rows of webhooks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from storefront.core.db.database import Database, Row
from storefront.core.encryption import Vault, new_key
from storefront.core.net.network_policy import Networks
from storefront.core.net.safe_http import Outgoing
from storefront.webhooks.dispatcher import Deliverer
from storefront.webhooks.queue import Patience
from storefront.webhooks.sending import Means, Messages
from storefront.webhooks.signing import new_secret
from tests.factories import insert

KEY = new_key()
VAULT = Vault([KEY])


class Thin:
    """Messages that say where they stand, and no more."""

    async def body(self, hook: Row, *, is_last: bool = False) -> bytes:  # noqa: ARG002  as all messages are asked for
        return b'{"position": %d, "productId": "%s", "webhook": "%s"}' % (
            hook.position,
            str(hook.product_id).encode(),
            hook.webhook_id.encode(),
        )


def deliverer(
    database: Database, *, slots: int = 16, interval: float = 0.1, timeout: float = 1.0, messages: Messages | None = None
) -> Deliverer:
    outgoing = Outgoing(Networks(["127.0.0.0/8"]), plain=True, timeout=timeout)
    return Deliverer(database, Means(messages or Thin(), outgoing, VAULT, Patience(retry=0.05), 0.5), interval, slots)


@asynccontextmanager
async def at_work(*deliverers: Deliverer) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for one in deliverers:
            await stack.enter_async_context(one.means.outgoing.running())
            await stack.enter_async_context(one.running())
        yield


async def hooked(database: Database, store: str, url: str) -> str:
    about = {"config_id": store, "url": url, "read_as": "owner", "position": 0, "secret": VAULT.encrypt(new_secret())}
    hook = await insert(database, "webhooks", **about)
    async with database.transaction() as connection:
        await connection.raw.execute("UPDATE webhooks SET topics = '{product.updated}' WHERE id = %s", [hook])
    return hook
