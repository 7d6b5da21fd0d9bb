"""Relay connections over pages by key."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

import orjson
import strawberry

from storefront.graph.cost_hints import costs
from storefront.queries.keyset import Page

T = TypeVar("T")


@strawberry.type
class PageInfo:
    """Where a page stands in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type
class Edge(Generic[T]):
    """A row and the cursor to continue behind it."""

    cursor: str
    node: T


@strawberry.type
class Connection(Generic[T]):
    """One page of a list."""

    page: strawberry.Private[Page]
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="The rows of this page.")
    def nodes(self) -> list[T]:
        rows = self.page.rows
        # Postgres may have written the nodes already.
        return cast(list[T], [orjson.Fragment(row.node) for row in rows] if rows and hasattr(rows[0], "node") else rows)

    @strawberry.field(description="The rows of this page, each with its cursor.")
    def edges(self) -> list[Edge[T]]:
        return [Edge(cursor=self.page.encode_cursor(row), node=row) for row in self.page.rows]

    @strawberry.field
    def page_info(self) -> PageInfo:
        page = self.page
        ends = [page.encode_cursor(page.rows[0]), page.encode_cursor(page.rows[-1])] if page.rows else [None, None]
        return PageInfo(
            has_next_page=page.has_next, has_previous_page=page.has_previous, start_cursor=ends[0], end_cursor=ends[1]
        )

    @strawberry.field(description="How many rows the whole list has. Counted only when asked for.", metadata=costs(10))
    async def total_count(self) -> int:
        return await self.count()
