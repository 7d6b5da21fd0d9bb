"""The operation context: databases, the viewer, shared services, and the data loaders of one GraphQL operation."""

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
from storefront.core.shared_runs import SharedRuns
from storefront.core.single_flight import SingleFlight
from storefront.core.storage.base import ObjectStorage
from storefront.core.tasks import share
from storefront.feed.hub import Hub
from storefront.feed.keyed_events import KeyedEvents
from storefront.feed.positions import ReadTracker
from storefront.feed.pubsub import PubSub
from storefront.queries import users
from storefront.queries.facet_index.indexes import FacetIndexes
from storefront.queries.spelling import CorrectionBudget, SpellingCorrector
from storefront.queries.users import Credentials
from storefront.queries.visibility import Audience
from storefront.serving.run.operations import Operations

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")

UNKNOWN_CLIENT = ClientInfo()

# Subscribers with the same selection share an event for this long; after that the product is read again.
EVENT_MAX_AGE_SECONDS = 1.0
MAX_EVENTS = 2_000
# Live lists that are evaluated at a time. Those that wait take all changes until then in one evaluation.
MAX_LIST_EVALUATIONS = 4


@dataclass(frozen=True, slots=True)
class Viewer:
    """The authenticated user, their own stores, and when their credentials were issued and expire (Unix time in seconds)."""

    id: str
    owned_store_ids: frozenset[str] = frozenset()
    expires: float | None = None
    issued: float = 0.0


@dataclass(frozen=True, slots=True)
class Feed:
    """The live feed of this process: the hub of store logs, pub/sub, and shared events."""

    hub: Hub
    wakeups: PubSub
    events: SingleFlight = field(default_factory=lambda: SingleFlight(MAX_EVENTS, EVENT_MAX_AGE_SECONDS))
    # Notifications that do not come from a store log, such as those of jobs.
    keyed_events: KeyedEvents = field(default_factory=KeyedEvents)
    # None may be opened unless a server says how many.
    live_lists: SharedRuns = field(default_factory=lambda: SharedRuns(0, "live lists"))
    # What the live lists of a store share, by store.
    store_lists: SharedRuns = field(default_factory=lambda: SharedRuns(None, "stores with live lists"))
    list_evaluations: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LIST_EVALUATIONS))

    def __post_init__(self) -> None:
        """Forward pub/sub messages to the keyed events."""
        self.wakeups.add_listener(self.keyed_events.notify)


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """Object storage, size limits of import files and images in bytes, the image processor, and this server's public URL."""

    objects: ObjectStorage
    max_import_bytes: int
    image_processor: ImageProcessor
    max_image_bytes: int
    base_url: str


@dataclass(frozen=True, slots=True)
class OutboundServices:
    """Clients for outbound HTTP (webhooks, Shopify), the executor of webhook queries, and the size limit of their payloads."""

    http_client: SafeHttpClient
    operations: Operations
    max_payload_bytes: int
    # Connects to a Shopify shop by its host name and an access token.
    connect_shop: Callable[[str, str], ShopifyClient]


@dataclass(slots=True)
class Context:
    """The context of one operation. Every operation has its own, because data loaders cache what they loaded.

    With a `replica`, reads go there. It may lag behind the primary: it is for viewers who have written nothing, and never for
    events and webhooks about a change.
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
    # None in processes that serve no requests: facets are counted in SQL.
    facet_indexes: FacetIndexes | None = None
    corrections: CorrectionBudget = field(default_factory=CorrectionBudget)
    # The object types of nodes that were found by their ids alone.
    node_types: dict[str, str] = field(default_factory=dict)
    _loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict)
    # The values by key of each loader and its arguments.
    _loaded: dict[Any, dict[Any, Any]] = field(default_factory=dict)
    _load_tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    _is_cancelled: bool = False

    @property
    def dependencies(self) -> Mapping[str, int] | None:
        """Cache dependencies: each store that was read, with its log position from before. None if unknown or not recorded."""
        return self.read_tracker.dependencies if self.read_tracker else None

    @property
    def read_database(self) -> Database:
        """The database for reads: the replica, if there is one, which falls back to the primary."""
        return self.replica or self.database

    @property
    def owned_store_ids(self) -> frozenset[str]:
        """The ids of the stores that the viewer owns."""
        return self.viewer.owned_store_ids if self.viewer else frozenset()

    def get_audience(self, config_id: str) -> Audience:
        """Whether the viewer reads a store as its owner or as a shopper."""
        return Audience.OWNER if config_id in self.owned_store_ids else Audience.SHOPPER

    @property
    def viewer_id(self) -> str | None:
        """The id of the viewer; None for anonymous requests."""
        return self.viewer.id if self.viewer else None

    @property
    def credentials(self) -> Credentials | None:
        """The viewer's id and time of issue, to check for revocation; None for anonymous requests."""
        return Credentials(self.viewer.id, self.viewer.issued) if self.viewer else None

    @property
    def expires(self) -> float | None:
        """When the viewer's credentials expire (Unix time in seconds); None if never."""
        return self.viewer.expires if self.viewer else None

    def fresh(self) -> "Context":
        """A context of the same viewer with empty loaders, which reads from the primary."""
        return self.as_viewer(self.viewer, self.client_info)

    def as_viewer(self, viewer: Viewer | None, client_info: ClientInfo = UNKNOWN_CLIENT) -> "Context":
        """A context of another viewer with empty loaders, which reads from the primary."""
        return Context(
            self.database,
            self.vocabularies,
            self.vault,
            self.feed,
            self.media_config,
            viewer,
            client_info,
            outbound=self.outbound,
            facet_indexes=self.facet_indexes,
        )

    def fork(self) -> "Context":
        """A copy with its own loaders, for another operation of the same request."""
        return replace(self, node_types={}, _loaders={}, _loaded={}, _load_tasks=[])

    async def reauthenticate(self) -> "Context":
        """A fresh context with the stores that the viewer owns now. Raises Unauthenticated if the credentials were revoked."""
        if self.viewer is None or self.credentials is None:
            return self.fresh()
        user = await users.load_user_by_credentials(self.database, self.credentials)
        if user is None or user.is_signed_out:
            raise Unauthenticated(users.SIGNED_OUT_MESSAGE)
        viewer = replace(self.viewer, owned_store_ids=frozenset(user.owned))
        return self.as_viewer(viewer, self.client_info)

    def as_anonymous(self) -> "Context":
        """An anonymous context with empty loaders."""
        return self.as_viewer(None)

    def with_read_tracker(self, read_tracker: ReadTracker, replica: Database | None) -> "Context":
        """An anonymous context whose reads, from the replica if there is one, are recorded as cache dependencies."""
        recorded_replica = replica.with_recorder(read_tracker) if replica else None
        database = self.database.with_recorder(read_tracker)
        return Context(
            database,
            self.vocabularies,
            self.vault,
            self.feed,
            self.media_config,
            replica=recorded_replica,
            read_tracker=read_tracker,
            facet_indexes=self.facet_indexes,
        )

    def require_outbound(self) -> OutboundServices:
        """The outbound services. Raises Unavailable in processes without them."""
        if self.outbound is None:
            raise Unavailable("This process has no outbound services.")
        return self.outbound

    def add_owned_store(self, config_id: str) -> None:
        """Add a store that this operation created to those that the viewer owns."""
        viewer = self.require_viewer()
        self.viewer = replace(viewer, owned_store_ids=viewer.owned_store_ids | {config_id})

    def cancel(self) -> None:
        """Cancel the running loads, because the client no longer waits, and refuse further ones."""
        self._is_cancelled = True
        for task in self._load_tasks:
            task.cancel()

    def release(self) -> None:
        """Drop the loaders at the end of the operation: they refer back to the context, a cycle that delays freeing the rows."""
        self.clear_loaders()
        self._load_tasks.clear()

    def _register_load(self) -> None:
        # Every batch of a data loader runs in its own task.
        if self._is_cancelled:
            raise asyncio.CancelledError
        if (task := asyncio.current_task()) is not None:
            self._load_tasks.append(task)

    def clear_loaders(self) -> None:
        """Drop cached rows, which are stale after a write."""
        self._loaders.clear()
        self._loaded.clear()

    def require_viewer(self) -> Viewer:
        """The viewer. Raises Unauthenticated for anonymous requests."""
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
        """The value of one key. Loads of the same loader and arguments are batched."""
        (value,) = await self.load_many(loader, (key,), *args, **kwargs)
        return value

    def prime(
        self,
        load: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        key: K,
        value: V,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Store the value of a key that was read with another statement: it is not loaded again."""
        self._loaded.setdefault((load, args, tuple(kwargs.items())), {})[key] = value

    def load_many(
        self,
        load: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        keys: Sequence[K],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[list[V]]:
        """The values of many keys, batched with other loads of the same loader and arguments; every key is loaded once."""
        loader_key = (load, args, tuple(kwargs.items()))
        data_loader = self._loaders.get(loader_key)
        if data_loader is None:
            loaded: dict[K, V] = self._loaded.setdefault(loader_key, {})

            async def load_batch(groups: list[tuple[K, ...]]) -> list[list[V]]:
                self._register_load()
                missing = [key for key in dict.fromkeys(chain.from_iterable(groups)) if key not in loaded]
                if missing:
                    with request_context.batch_span(load, len(missing)):
                        loaded.update(zip(missing, await load(self, missing, *args, **kwargs), strict=True))
                return [[loaded[key] for key in group] for group in groups]

            data_loader = self._loaders[loader_key] = DataLoader(load_fn=load_batch)
        # An error cancels sibling fields: that must not cancel a batch which other fields wait for as well.
        return share(data_loader.load(tuple(keys)))


Info = strawberry.Info[Context, None]
