"""An operation that is ready to run, and the context that it runs in."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from graphql import OperationType

from storefront.serving.documents.document_store import PreparedDocument
from storefront.serving.documents.limits import WorkCounts


class OperationContext(Protocol):
    """The context of one operation: the viewer, their credentials, and what is loaded for them.

    A subscription runs each event in a fresh context, until the credentials expire or are revoked.
    """

    @property
    def viewer_id(self) -> str | None:
        """The id of the viewer; None for an anonymous one."""

    @property
    def expires(self) -> float | None:
        """When the credentials expire, in seconds since 1970; None: never."""

    @property
    def credentials(self) -> Hashable | None:
        """What identifies the credentials, so that they can be revoked; None for an anonymous viewer."""

    async def reauthenticate(self) -> "OperationContext":
        """The same viewer, read anew. Raises Unauthenticated once their credentials are no longer valid."""

    def fresh(self) -> "OperationContext":
        """A new context of the same viewer, with nothing loaded."""

    def fork(self) -> "OperationContext":
        """A context of the same viewer at the same moment, for another operation."""

    def as_anonymous(self) -> "OperationContext":
        """A new context of an anonymous viewer."""

    def cancel(self) -> None:
        """Cancel what runs on behalf of the operation: its client no longer waits for it."""

    def release(self) -> None:
        """Free what was loaded for the operation, which has ended."""


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """A request with its validated document.

    `kind` is query, mutation or subscription; None if the request does not say which operation of several it means. `name` is
    the operation name in the request, `label` the one in the document. `counts`: how much work it is.
    """

    document: PreparedDocument
    kind: OperationType | None
    name: str | None
    variables: dict[str, Any]
    counts: WorkCounts
    reports_cost: bool = False
    label: str | None = None

    @property
    def cost(self) -> int:
        """The estimated cost."""
        return self.counts.cost

    @property
    def kind_name(self) -> str:
        """The kind as a word; "unknown" if the request does not select an operation."""
        return self.kind.value if self.kind else "unknown"

    @property
    def hash(self) -> str:
        """The hash of the document."""
        return self.document.hash

    @property
    def is_public(self) -> bool:
        """Whether this is a query with one response for all anonymous viewers, which changes only with the change logs."""
        return self.kind is OperationType.QUERY and self.document.cacheability.is_public
