"""Relay connections (edges, nodes, pageInfo) and their pagination arguments, over keyset pagination."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Generic, TypeVar, cast

import strawberry

from storefront.graph.cost_hints import costs
from storefront.graph.limits import MAX_CURSOR_CHARACTERS, ROW_LIMITS, limits
from storefront.graph.rows import wrap_json_rows
from storefront.queries.keyset import Page

T = TypeVar("T")

CURSOR_LIMITS = limits(characters=MAX_CURSOR_CHARACTERS)
First = Annotated[int, strawberry.argument(description="Maximum number of items, 1 to 100.", metadata=ROW_LIMITS)]
MaybeFirst = Annotated[
    int | None,
    strawberry.argument(
        description="Maximum number of items from the start, 1 to 100; 20 if neither `first` nor `last` is given.",
        metadata=ROW_LIMITS,
    ),
]
MaybeLast = Annotated[
    int | None, strawberry.argument(description="Maximum number of items from the end, 1 to 100.", metadata=ROW_LIMITS)
]
After = Annotated[str | None, strawberry.argument(description="Returns the items after this cursor.", metadata=CURSOR_LIMITS)]
Before = Annotated[str | None, strawberry.argument(description="Returns the items before this cursor.", metadata=CURSOR_LIMITS)]


@strawberry.type(description="Information about a page of a connection.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there are items after this page.")
    has_previous_page: bool = strawberry.field(description="Whether there are items before this page.")
    start_cursor: str | None = strawberry.field(description="Cursor of the first item; null on an empty page.")
    end_cursor: str | None = strawberry.field(description="Cursor of the last item; null on an empty page.")


@strawberry.type(description="An item in a page, with its cursor.")
class Edge(Generic[T]):
    cursor: str = strawberry.field(description="Cursor of this item.")
    node: T = strawberry.field(description="The item.")


@strawberry.type
class Connection(Generic[T]):
    """One page of a list."""

    page: strawberry.Private[Page]
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="The items of this page.")
    def nodes(self) -> list[T]:
        rows = self.page.rows
        # With JSON pushdown, Postgres rendered the nodes.
        return cast(list[T], wrap_json_rows(rows) if rows and hasattr(rows[0], "node") else rows)

    @strawberry.field(description="The items of this page, each with its cursor.")
    def edges(self) -> list[Edge[T]]:
        return [Edge(cursor=self.page.encode_cursor(row), node=row) for row in self.page.rows]

    @strawberry.field(description="Information about this page.")
    def page_info(self) -> PageInfo:
        page = self.page
        ends = [page.encode_cursor(page.rows[0]), page.encode_cursor(page.rows[-1])] if page.rows else [None, None]
        return PageInfo(
            has_next_page=page.has_next, has_previous_page=page.has_previous, start_cursor=ends[0], end_cursor=ends[1]
        )

    @strawberry.field(description="Number of items in the whole list.", metadata=costs(10))
    async def total_count(self) -> int:
        return await self.count()
