"""Postgres LISTEN/NOTIFY as pub/sub between processes, on its own connections."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from broadcaster import Event
from broadcaster._backends.base import BroadcastBackend
from psycopg import sql

from storefront.core.db.database import get_host_timeout_seconds
from storefront.core.db.pipeline import PipelineConnection, PlainSQL, QueuedStatement

# Statement timeout in seconds, beyond which a connection is considered lost (`pipeline.BATCH_GRACE_SECONDS`) and is replaced.
RESPONSE_TIMEOUT_SECONDS = 3.0
NOTIFY = PlainSQL("SELECT pg_notify($1, $2)")


class PostgresBackend(BroadcastBackend):
    """One connection listens, one publishes: a notification is never part of a business transaction and never waits for one.

    For short messages: a NOTIFY payload has at most 8,000 bytes.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._listen_connection: PipelineConnection | None = None
        self._publish_connection: PipelineConnection | None = None
        self._notifications: AsyncIterator[psycopg.Notify] | None = None
        self._subscribed = asyncio.Event()
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        """Open the listening connection."""
        self._listen_connection = await self._connect()

    async def disconnect(self) -> None:
        """Close both connections."""
        for connection in (self._listen_connection, self._publish_connection):
            if connection is not None:
                await connection.close()

    async def subscribe(self, group: str) -> None:
        """Subscribe to a channel."""
        assert self._listen_connection is not None  # noqa: S101  connect comes first
        listen = sql.SQL("LISTEN {}").format(sql.Identifier(group)).as_string()
        await self._listen_connection.statements.execute_batch([QueuedStatement(PlainSQL(listen))])
        self._notifications = self._listen_connection.notifies()
        self._subscribed.set()

    async def unsubscribe(self, group: str) -> None:
        """No operation: a connection that waits for notifications takes no statement; closing it unsubscribes."""

    async def publish(self, channel: str, message: Any) -> None:
        """Publish a message. Reconnects if the connection was lost."""
        async with self._lock:
            if self._publish_connection is None or self._publish_connection.closed:
                self._publish_connection = await self._connect()
            await self._publish_connection.statements.execute_batch([QueuedStatement(NOTIFY, [channel, message])])

    async def next_published(self) -> Event:
        """The next message. Raises OperationalError if the connection is lost."""
        await self._subscribed.wait()
        async for notify in self._notifications or ():  # type: ignore[union-attr]
            return Event(notify.channel, notify.payload)
        raise psycopg.OperationalError("the listening connection was closed")

    async def _connect(self) -> PipelineConnection:
        timeout_seconds = get_host_timeout_seconds(self._url)
        connection = await PipelineConnection.connect(self._url, autocommit=True, connect_timeout=timeout_seconds)
        connection.statements.statement_timeout_seconds = RESPONSE_TIMEOUT_SECONDS
        return connection
