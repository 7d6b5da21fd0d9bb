"""What one operation knows: the database, who asks, and the loaders it has used so far."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import strawberry
from strawberry.dataloader import DataLoader

from storefront.core.database import Database
from storefront.core.errors import Unauthenticated
from storefront.core.secrets import Vault
from storefront.queries.visibility import Audience
from storefront.queries.vocabulary import Vocabularies

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user who asks, and the stores that are theirs."""

    id: str
    owned: frozenset[str] = frozenset()


@dataclass(slots=True)
class Context:
    """One operation's context. Made anew for each: loaders remember what they loaded."""

    database: Database
    vocabularies: Vocabularies
    vault: Vault
    viewer: Viewer | None = None
    _loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict)

    @property
    def owned(self) -> frozenset[str]:
        """The ids of the asker's own stores."""
        return self.viewer.owned if self.viewer else frozenset()

    def audience(self, config_id: str) -> Audience:
        """As whom the asker reads a store."""
        return Audience.OWNER if config_id in self.owned else Audience.SHOPPER

    def now_owns(self, config_id: str) -> None:
        """A store was made during this operation."""
        viewer = self.signed_in()
        self.viewer = Viewer(viewer.id, viewer.owned | {config_id})

    def forget(self) -> None:
        """After a write, what was loaded before it is out of date."""
        self._loaders.clear()

    def signed_in(self) -> Viewer:
        """The asker, where there has to be one."""
        if self.viewer is None:
            raise Unauthenticated("Sign in first: send the header Authorization: Bearer <token>.")
        return self.viewer

    def load(
        self,
        edge: "Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]",
        key: K,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[V]:
        """One key of an edge. Keys asked for together are loaded together, per edge and arguments."""
        loader = self._loaders.get((edge, args, tuple(kwargs.items())))
        if loader is None:

            async def batch(keys: list[K]) -> Sequence[V]:
                return await edge(self, keys, *args, **kwargs)

            loader = self._loaders[edge, args, tuple(kwargs.items())] = DataLoader(load_fn=batch)
        return loader.load(key)


Info = strawberry.Info[Context, None]
