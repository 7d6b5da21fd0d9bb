"""Swatches: how values of options are shown, such as a colour or a pattern."""

from collections.abc import Callable, Sequence
from typing import Any

import strawberry

from storefront.execution.batch_field import BatchResolver, batch_field
from storefront.graph import loaders
from storefront.graph.context import Info
from storefront.graph.images import Image, load_variant_images
from storefront.models.row_keys import RowKey
from storefront.queries.options import SwatchRow

SWATCH_DESCRIPTION = "How to show the value; null for plain text."


@strawberry.type(description="Visual representation of an option value.")
class Swatch:
    color: str | None = strawberry.field(description="CSS colour.")
    image: Image | None = batch_field(
        load_variant_images, description="Image, such as a pattern. Takes precedence over the colour."
    )


def build_swatch_batch(get_product: Callable[[Any], RowKey | None]) -> BatchResolver:
    """A batch resolver of the swatches of rows with `name` and `value`. `get_product`: the product whose swatches they have."""

    async def load_swatches(rows: Sequence[Any], info: Info) -> Sequence[SwatchRow | None]:
        # Many rows have the same product.
        keys = [get_product(row) for row in rows]
        distinct_keys = [key for key in dict.fromkeys(keys) if key is not None]
        loaded = await info.context.load_many(loaders.load_swatches, distinct_keys) if distinct_keys else ()
        swatches_by_key = dict(zip(distinct_keys, loaded, strict=True))
        found = [swatches_by_key[key] if key is not None else None for key in keys]
        return [
            None if swatches is None else swatches.find(row.name, row.value) for swatches, row in zip(found, rows, strict=True)
        ]

    return load_swatches
