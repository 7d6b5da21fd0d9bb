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
from storefront.core.image_processing import Pictures
from storefront.core.net.client_info import Sender
from storefront.core.net.safe_http import Outgoing
from storefront.core.net.shopify_client import Shop
from storefront.core.single_flight import SingleFlight
from storefront.core.storage.base import Objects
from storefront.feed.hub import Hub
from storefront.feed.keyed_events import Stirs
from storefront.feed.positions import Record
from storefront.feed.pubsub import WakeUps
from storefront.queries import users
from storefront.queries.spelling import Allowance, Vocabularies
from storefront.queries.users import Proof
from storefront.queries.visibility import Audience
from storefront.serving.run.operations import Operations

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")

UNKNOWN = Sender()

# Listeners of the same share an event, and those that come within so many seconds: later, the product is read as it is then.
EVENT_MAX_AGE_SECONDS = 1.0
MAX_EVENTS = 2_000


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user who asks, the stores that are theirs, and when their proof was issued and ends, in seconds since 1970."""

    id: str
    owned: frozenset[str] = frozenset()
    expires: float | None = None
    issued: float = 0.0


@dataclass(frozen=True, slots=True)
class Feed:
    """What the live feed of this process is made of."""

    hub: Hub
    wakeups: WakeUps
    events: SingleFlight = field(default_factory=lambda: SingleFlight(MAX_EVENTS, EVENT_MAX_AGE_SECONDS))
    # For those who wait for something else than a log.
    stirs: Stirs = field(default_factory=Stirs)

    def __post_init__(self) -> None:
        """Have the wake-ups heard."""
        self.wakeups.listen(self.stirs.heard)


@dataclass(frozen=True, slots=True)
class Files:
    """What is not in rows: the object store, how many bytes a file of products or a picture may have, what works on pictures, and
    where clients reach this server.
    """

    objects: Objects
    most_import_bytes: int
    pictures: Pictures
    most_image_bytes: int
    base_url: str


@dataclass(frozen=True, slots=True)
class Outside:
    """What this process sends to addresses outside with, at most so many bytes, and how it executes what is selected for that."""

    outgoing: Outgoing
    operations: Operations
    most_bytes: int
    # Connects to a shop at Shopify, by its host and an access token.
    shop: Callable[[str, str], Shop]


@dataclass(slots=True)
class Context:
    """One operation's context. Made anew for each: loaders remember what they loaded.

    What has a `replica` to read from is read there. It may be a moment behind: it is for those who have written nothing, and
    never for what is told of a change.
    """

    database: Database
    vocabularies: Vocabularies
    vault: Vault
    feed: Feed
    files: Files
    viewer: Viewer | None = None
    sender: Sender = field(default_factory=Sender)
    replica: Database | None = None
    record: Record | None = None
    outside: Outside | None = None
    corrections: Allowance = field(default_factory=Allowance)
    _loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict)
    _loading: list[asyncio.Task[Any]] = field(default_factory=list)
    _is_abandoned: bool = False

    @property
    def touched(self) -> Mapping[str, int] | None:
        """The stores that were read, each with a position from before; None where there is more to it, or no record."""
        return self.record.touched if self.record else None

    @property
    def reads(self) -> Database:
        """Where to read."""
        return self.replica or self.database

    @property
    def owned(self) -> frozenset[str]:
        """The ids of the asker's own stores."""
        return self.viewer.owned if self.viewer else frozenset()

    def audience(self, config_id: str) -> Audience:
        """As whom the asker reads a store."""
        return Audience.OWNER if config_id in self.owned else Audience.SHOPPER

    @property
    def asker(self) -> str | None:
        """Who asks, where that is known."""
        return self.viewer.id if self.viewer else None

    @property
    def proof(self) -> Proof | None:
        """What the asker is known by, where they are."""
        return Proof(self.viewer.id, self.viewer.issued) if self.viewer else None

    @property
    def expires(self) -> float | None:
        """When the asker's proof ends, in seconds since 1970."""
        return self.viewer.expires if self.viewer else None

    def renewed(self) -> "Context":
        """The same asker later on, who has loaded nothing yet."""
        return self.seen_by(self.viewer, self.sender)

    def seen_by(self, viewer: Viewer | None, sender: Sender = UNKNOWN) -> "Context":
        """For another asker, who has loaded nothing yet, and reads where is written."""
        return Context(self.database, self.vocabularies, self.vault, self.feed, self.files, viewer, sender, outside=self.outside)

    def apart(self) -> "Context":
        """The same asker at the same moment, for another operation that loads for itself."""
        return replace(self, _loaders={}, _loading=[])

    async def current(self) -> "Context":
        """The same asker with the stores that are theirs by now; raises Unauthenticated once their proof no longer counts."""
        if self.viewer is None or self.proof is None:
            return self.renewed()
        known = await users.by_proof(self.database, self.proof)
        if known is None or known.is_signed_out:
            raise Unauthenticated(users.SIGNED_OUT)
        viewer = replace(self.viewer, owned=frozenset(known.owned))
        return self.seen_by(viewer, self.sender)

    def anonymous(self) -> "Context":
        """Somebody unknown, who has loaded nothing yet."""
        return self.seen_by(None)

    def recorded(self, record: Record) -> "Context":
        """Somebody unknown whose reads are noted."""
        replica = self.replica.recorded(record) if self.replica else None
        database = self.database.recorded(record)
        return Context(database, self.vocabularies, self.vault, self.feed, self.files, replica=replica, record=record)

    def way_out(self) -> Outside:
        """What there is to send with."""
        if self.outside is None:
            raise Unavailable("This process sends nothing to addresses outside.")
        return self.outside

    def now_owns(self, config_id: str) -> None:
        """A store was made during this operation."""
        viewer = self.signed_in()
        self.viewer = replace(viewer, owned=viewer.owned | {config_id})

    def abandon(self) -> None:
        """Nobody waits for the operation any more: what it is loading is cancelled, and nothing more is loaded."""
        self._is_abandoned = True
        for load in self._loading:
            load.cancel()

    def release(self) -> None:
        """The operation is over. Loaders refer to their context: without this, rows would wait for the garbage collector."""
        self._loaders.clear()
        self._loading.clear()

    def _begin_load(self) -> None:
        # Loaders run in tasks of their own.
        if self._is_abandoned:
            raise asyncio.CancelledError
        if (task := asyncio.current_task()) is not None:
            self._loading.append(task)

    def forget(self) -> None:
        """After a write, what was loaded before it is out of date."""
        self._loaders.clear()

    def signed_in(self) -> Viewer:
        """The asker, where there has to be one."""
        if self.viewer is None:
            raise Unauthenticated("Sign in first: send the header Authorization: Bearer <token>.")
        return self.viewer

    async def load(
        self,
        edge: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        key: K,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> V:
        """One key of an edge. Keys asked for together are loaded together, per edge and arguments."""
        (value,) = await self.load_many(edge, (key,), *args, **kwargs)
        return value

    def load_many(
        self,
        edge: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        keys: Sequence[K],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[list[V]]:
        """Many keys of an edge at once, loaded together with all others that are asked for meanwhile, each one once."""
        name = (edge, args, tuple(kwargs.items()))
        loader = self._loaders.get(name)
        if loader is None:
            known: dict[K, V] = {}

            async def batch(groups: list[tuple[K, ...]]) -> list[list[V]]:
                self._begin_load()
                missing = [key for key in dict.fromkeys(chain.from_iterable(groups)) if key not in known]
                if missing:
                    with request_context.part(edge, len(missing)):
                        known.update(zip(missing, await edge(self, missing, *args, **kwargs), strict=True))
                return [[known[key] for key in group] for group in groups]

            loader = self._loaders[name] = DataLoader(load_fn=batch)
        # Where an error makes siblings superfluous they are cancelled: that must not take from others what they wait for too.
        return asyncio.shield(loader.load(tuple(keys)))


Info = strawberry.Info[Context, None]
