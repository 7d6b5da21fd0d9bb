"""Deliverers in the process of the test, with thin messages, and rows of webhooks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from storefront.core.db.database import Database, Row
from storefront.core.encryption import Vault, generate_key
from storefront.core.net.network_policy import NetworkPolicy
from storefront.core.net.safe_http import SafeHttpClient
from storefront.webhooks.dispatcher import Dispatcher
from storefront.webhooks.queue import RetryPolicy
from storefront.webhooks.sending import BodyRenderer, DeliveryDependencies
from storefront.webhooks.signing import generate_secret
from tests.factories import insert

KEY = generate_key()
VAULT = Vault([KEY])


class Thin:
    """Messages that say where they stand, and no more."""

    async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:  # noqa: ARG002  as all messages are asked for
        return b'{"position": %d, "productId": "%s", "webhook": "%s"}' % (
            hook.position,
            str(hook.product_id).encode(),
            hook.webhook_id.encode(),
        )


def deliverer(
    database: Database, *, slots: int = 16, interval: float = 0.1, timeout: float = 1.0, messages: BodyRenderer | None = None
) -> Dispatcher:
    outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True, timeout=timeout)
    return Dispatcher(
        database,
        DeliveryDependencies(messages or Thin(), outgoing, VAULT, RetryPolicy(first_retry_seconds=0.05), 0.5),
        interval,
        slots,
    )


@asynccontextmanager
async def at_work(*deliverers: Dispatcher) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for one in deliverers:
            await stack.enter_async_context(one.dependencies.http_client.running())
            await stack.enter_async_context(one.running())
        yield


async def hooked(database: Database, store: str, url: str) -> str:
    about = {"config_id": store, "url": url, "read_as": "owner", "position": 0, "secret": VAULT.encrypt(generate_secret())}
    hook = await insert(database, "webhooks", **about)
    async with database.transaction() as connection:
        await connection.raw.execute("UPDATE webhooks SET topics = '{product.updated}' WHERE id = %s", [hook])
    return hook
