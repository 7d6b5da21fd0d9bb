"""Follows a store from Python, with gql[websockets]."""

# [guide]
import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from gql import Client, gql
from gql.transport.exceptions import TransportConnectionFailed
from gql.transport.websockets import WebsocketsTransport

FEED = """subscription Feed($configId: ID!, $after: Position) {
  productFeed(configId: $configId, after: $after) {
    __typename
    position
    ... on ProductCreated { product { id title price } }
    ... on ProductUpdated { changedFields product { id title price } }
    ... on ProductDeleted { productId }
    ... on FeedReset { reason }
  }
}"""


async def events(url: str, token: Callable[[], str] | None, config_id: str, after: str) -> AsyncIterator[dict[str, Any]]:
    """The events after a position, each once, however often the connection is lost. Raises what the server refuses.

    `token` returns a bearer token for each connection; None reads as a shopper.
    """
    while True:
        feed = gql(FEED)
        feed.variable_values = {"configId": config_id, "after": after}
        credentials = {"authorization": f"Bearer {token()}"} if token else {}
        transport = WebsocketsTransport(url=url, init_payload=credentials)
        try:
            async with Client(transport=transport) as session:
                async for data in session.subscribe(feed):
                    after = data["productFeed"]["position"]
                    yield data["productFeed"]
        except TransportConnectionFailed as lost:
            closed = getattr(lost.__cause__, "rcvd", None)
            if closed and closed.code in (4400, 4401):
                raise
        await asyncio.sleep(1)


# [/guide]
