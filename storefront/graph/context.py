"""What one operation knows: the database, who asks, and the loaders it has used so far."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import strawberry
from strawberry.dataloader import DataLoader

from storefront.core import request_context
from storefront.core.db.database import Database
from storefront.core.encryption import Vault
from storefront.core.errors import Unauthenticated, Unavailable
from storefront.core.image_processing import ImageProcessor
from storefront.core.net.client_info import ClientInfo
from storefront.core.net.safe_http import SafeHttpClient
from storefront.core.net.shopify_client import ShopifyClient
from storefront.core.single_flight import SingleFlight
from storefront.core.storage.base import ObjectStorage
from storefront.feed.hub import Hub
from storefront.feed.keyed_events import KeyedEvents
from storefront.feed.positions import ReadTracker
from storefront.feed.pubsub import PubSub
from storefront.queries import users
from storefront.queries.spelling import CorrectionBudget, SpellingCorrector
from storefront.queries.users import Credentials
from storefront.queries.visibility import Audience
from storefront.serving.run.operations import Operations

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")

UNKNOWN_CLIENT = ClientInfo()

# Listeners of the same share an event, and those that come within so many seconds: later, the product is read as it is then.
EVENT_MAX_AGE_SECONDS = 1.0
MAX_EVENTS = 2_000


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user who asks, the stores that are theirs, and when their proof was issued and ends, in seconds since 1970."""

    id: str
    owned_store_ids: frozenset[str] = frozenset()
    expires: float | None = None
    issued: float = 0.0


@dataclass(frozen=True, slots=True)
class Feed:
    """What the live feed of this process is made of."""

    hub: Hub
    wakeups: PubSub
    events: SingleFlight = field(default_factory=lambda: SingleFlight(MAX_EVENTS, EVENT_MAX_AGE_SECONDS))
    # For those who wait for something else than a log.
    keyed_events: KeyedEvents = field(default_factory=KeyedEvents)

    def __post_init__(self) -> None:
        """Have the wake-ups heard."""
        self.wakeups.add_listener(self.keyed_events.notify)


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """What is not in rows: the object store, how many bytes a file of products or a picture may have, what works on pictures, and
    where clients reach this server.
    """

    objects: ObjectStorage
    max_import_bytes: int
    image_processor: ImageProcessor
    max_image_bytes: int
    base_url: str


@dataclass(frozen=True, slots=True)
class OutboundServices:
    """What this process sends to addresses outside with, at most so many bytes, and how it executes what is selected for that."""

    http_client: SafeHttpClient
    operations: Operations
    max_payload_bytes: int
    # Connects to a shop at Shopify, by its host and an access token.
    connect_shop: Callable[[str, str], ShopifyClient]


@dataclass(slots=True)
class Context:
    """One operation's context. Made anew for each: loaders remember what they loaded.

    What has a `replica` to read from is read there. It may be a moment behind: it is for those who have written nothing, and
    never for what is told of a change.
    """

    database: Database
    vocabularies: SpellingCorrector
    vault: Vault
    feed: Feed
    media_config: MediaConfig
    viewer: Viewer | None = None
    client_info: ClientInfo = field(default_factory=ClientInfo)
    replica: Database | None = None
    read_tracker: ReadTracker | None = None
    outbound: OutboundServices | None = None
    corrections: CorrectionBudget = field(default_factory=CorrectionBudget)
    _loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict)
    _load_tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    _is_cancelled: bool = False

    @property
    def dependencies(self) -> Mapping[str, int] | None:
        """The stores that were read, each with a position from before; None where there is more to it, or no record."""
        return self.read_tracker.dependencies if self.read_tracker else None

    @property
    def read_database(self) -> Database:
        """Where to read."""
        return self.replica or self.database

    @property
    def owned_store_ids(self) -> frozenset[str]:
        """The ids of the asker's own stores."""
        return self.viewer.owned_store_ids if self.viewer else frozenset()

    def get_audience(self, config_id: str) -> Audience:
        """As whom the asker reads a store."""
        return Audience.OWNER if config_id in self.owned_store_ids else Audience.SHOPPER

    @property
    def viewer_id(self) -> str | None:
        """Who asks, where that is known."""
        return self.viewer.id if self.viewer else None

    @property
    def credentials(self) -> Credentials | None:
        """What the asker is known by, where they are."""
        return Credentials(self.viewer.id, self.viewer.issued) if self.viewer else None

    @property
    def expires(self) -> float | None:
        """When the asker's proof ends, in seconds since 1970."""
        return self.viewer.expires if self.viewer else None

    def fresh(self) -> "Context":
        """The same asker later on, who has loaded nothing yet."""
        return self.as_viewer(self.viewer, self.client_info)

    def as_viewer(self, viewer: Viewer | None, client_info: ClientInfo = UNKNOWN_CLIENT) -> "Context":
        """For another asker, who has loaded nothing yet, and reads where is written."""
        return Context(
            self.database,
            self.vocabularies,
            self.vault,
            self.feed,
            self.media_config,
            viewer,
            client_info,
            outbound=self.outbound,
        )

    def fork(self) -> "Context":
        """The same asker at the same moment, for another operation that loads for itself."""
        return replace(self, _loaders={}, _load_tasks=[])

    async def reauthenticate(self) -> "Context":
        """The same asker with the stores that are theirs by now; raises Unauthenticated once their proof no longer counts."""
        if self.viewer is None or self.credentials is None:
            return self.fresh()
        user = await users.load_user_by_credentials(self.database, self.credentials)
        if user is None or user.is_signed_out:
            raise Unauthenticated(users.SIGNED_OUT_MESSAGE)
        viewer = replace(self.viewer, owned_store_ids=frozenset(user.owned))
        return self.as_viewer(viewer, self.client_info)

    def as_anonymous(self) -> "Context":
        """Somebody unknown, who has loaded nothing yet."""
        return self.as_viewer(None)

    def with_read_tracker(self, read_tracker: ReadTracker) -> "Context":
        """Somebody unknown whose reads are noted."""
        replica = self.replica.with_recorder(read_tracker) if self.replica else None
        database = self.database.with_recorder(read_tracker)
        return Context(
            database, self.vocabularies, self.vault, self.feed, self.media_config, replica=replica, read_tracker=read_tracker
        )

    def require_outbound(self) -> OutboundServices:
        """What there is to send with."""
        if self.outbound is None:
            raise Unavailable("This process sends nothing to addresses outside.")
        return self.outbound

    def add_owned_store(self, config_id: str) -> None:
        """A store was made during this operation."""
        viewer = self.require_viewer()
        self.viewer = replace(viewer, owned_store_ids=viewer.owned_store_ids | {config_id})

    def cancel(self) -> None:
        """Nobody waits for the operation any more: what it is loading is cancelled, and nothing more is loaded."""
        self._is_cancelled = True
        for task in self._load_tasks:
            task.cancel()

    def release(self) -> None:
        """The operation is over. Loaders refer to their context: without this, rows would wait for the garbage collector."""
        self._loaders.clear()
        self._load_tasks.clear()

    def _register_load(self) -> None:
        # Loaders run in tasks of their own.
        if self._is_cancelled:
            raise asyncio.CancelledError
        if (task := asyncio.current_task()) is not None:
            self._load_tasks.append(task)

    def clear_loaders(self) -> None:
        """After a write, what was loaded before it is out of date."""
        self._loaders.clear()

    def require_viewer(self) -> Viewer:
        """The asker, where there has to be one."""
        if self.viewer is None:
            raise Unauthenticated("Sign in first: send the header Authorization: Bearer <token>.")
        return self.viewer

    async def load(
        self,
        loader: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        key: K,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> V:
        """One key of an edge. Keys asked for together are loaded together, per edge and arguments."""
        (value,) = await self.load_many(loader, (key,), *args, **kwargs)
        return value

    def load_many(
        self,
        load: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        keys: Sequence[K],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[list[V]]:
        """Many keys of an edge at once, loaded together with all others that are asked for meanwhile, each one once."""
        loader_key = (load, args, tuple(kwargs.items()))
        data_loader = self._loaders.get(loader_key)
        if data_loader is None:
            loaded: dict[K, V] = {}

            async def load_batch(groups: list[tuple[K, ...]]) -> list[list[V]]:
                self._register_load()
                missing = [key for key in dict.fromkeys(chain.from_iterable(groups)) if key not in loaded]
                if missing:
                    with request_context.batch_span(load, len(missing)):
                        loaded.update(zip(missing, await load(self, missing, *args, **kwargs), strict=True))
                return [[loaded[key] for key in group] for group in groups]

            data_loader = self._loaders[loader_key] = DataLoader(load_fn=load_batch)
        # Where an error makes siblings superfluous they are cancelled: that must not take from others what they wait for too.
        return asyncio.shield(data_loader.load(tuple(keys)))


Info = strawberry.Info[Context, None]
