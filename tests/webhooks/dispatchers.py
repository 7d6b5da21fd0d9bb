"""Dispatchers in the process of the test, with minimal messages, and rows of webhooks."""

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


class MinimalRenderer:
    """Renders minimal messages: position, product and webhook."""

    async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:  # noqa: ARG002  the signature of the protocol
        return b'{"position": %d, "productId": "%s", "webhook": "%s"}' % (
            hook.position,
            str(hook.product_id).encode(),
            hook.webhook_id.encode(),
        )


def make_dispatcher(
    database: Database, *, slots: int = 16, interval: float = 0.1, timeout: float = 1.0, messages: BodyRenderer | None = None
) -> Dispatcher:
    outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True, timeout=timeout)
    return Dispatcher(
        database,
        DeliveryDependencies(messages or MinimalRenderer(), outgoing, VAULT, RetryPolicy(first_retry_seconds=0.05), 0.5),
        interval,
        slots,
    )


@asynccontextmanager
async def running_dispatchers(*dispatchers: Dispatcher) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for dispatcher in dispatchers:
            await stack.enter_async_context(dispatcher.dependencies.http_client.running())
            await stack.enter_async_context(dispatcher.running())
        yield


async def insert_webhook(database: Database, store: str, url: str) -> str:
    about = {"config_id": store, "url": url, "read_as": "owner", "position": 0, "secret": VAULT.encrypt(generate_secret())}
    hook = await insert(database, "webhooks", **about)
    async with database.transaction() as connection:
        await connection.raw.execute("UPDATE webhooks SET topics = '{product.updated}' WHERE id = %s", [hook])
    return hook
