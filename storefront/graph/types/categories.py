"""What identifies a category, and how the tree of a store is loaded. `catalogue.py` has the object type."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID, uuid5

import strawberry

from storefront.core.errors import InvalidInput
from storefront.core.handles import generate_handle
from storefront.graph import arguments, loaders
from storefront.graph.batches import load_by_kind
from storefront.graph.context import Info
from storefront.graph.limits import ROW_LIMITS
from storefront.models.categories import join_category, split_category
from storefront.queries.categories import CategoryNode, CategoryTree, Names

FirstCategories = Annotated[int, strawberry.argument(description="Maximum number of categories, 1 to 100.", metadata=ROW_LIMITS)]


@strawberry.input(one_of=True, description="Identifies a category of a store by exactly one of these.")
class CategoryByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the category.")
    handle: str | None = strawberry.field(default=strawberry.UNSET, description="Handle of the category.")
    path: str | None = strawberry.field(default=strawberry.UNSET, description="Path of the category.")


async def load_trees(info: Info, config_ids: Sequence[str]) -> list[CategoryTree]:
    """The trees of stores, as the viewer sees them."""
    audiences = [info.context.get_audience(config_id) for config_id in config_ids]
    load = info.context.load_many
    return await load_by_kind(config_ids, audiences, lambda keys, audience: load(loaders.load_category_trees, keys, audience))


def build_category_id(config_id: str, names: Sequence[str]) -> str:
    """The ID of a category."""
    return str(uuid5(UUID(config_id), join_category(tuple(names))))


def build_handle(names: Sequence[str]) -> str:
    """The handle of a category in URLs."""
    return "/".join(map(_generate_part, names))


def _generate_part(name: str) -> str:
    return generate_handle(name, "category")


def find_category(config_id: str, tree: CategoryTree, by: CategoryByInput) -> Names | None:
    """The names of the category that `by` identifies."""
    if isinstance(by.path, str):
        names = split_category(arguments.check_text(by.path, "by.path"))
        return names if names in tree.nodes else None
    if isinstance(by.handle, str):
        return _find_by_handle(tree, arguments.check_text(by.handle, "by.handle"))
    if isinstance(by.id, str):
        id_ = arguments.check_id(by.id, "by.id")
        return next((names for names in tree.nodes if build_category_id(config_id, names) == id_), None)
    raise InvalidInput("by", "give one of id, handle or path, and not null.")


def _find_by_handle(tree: CategoryTree, handle: str) -> Names | None:
    """Level by level: the first is the one with the most products."""
    found, children = list[CategoryNode](), tree.roots
    for part in handle.split("/"):
        found = [node for node in children if _generate_part(node.names[-1]) == _generate_part(part)]
        children = [child for node in found for child in node.children]
    return found[0].names if found else None
