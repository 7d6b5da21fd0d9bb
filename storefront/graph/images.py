"""Pictures of products, as clients see them."""

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import InvalidInput
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.limits import ROW_LIMITS
from storefront.queries.images import ProductImage, build_resized_address, parse_image_id, resolve_product_image

MAX_PIXELS = 10_000

First = Annotated[int, strawberry.argument(description="How many, 1 to 100.", metadata=ROW_LIMITS)]
Pixels = Annotated[int | None, strawberry.argument(description="Pixels of the screen, 1 to 10,000.")]


@strawberry.enum(description="As what a picture is served. All browsers of today show WEBP; AVIF is the smallest.")
class ImageFormat(Enum):
    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"
    AVIF = "avif"


async def _build_urls(
    images: Sequence[ProductImage],
    info: Info,  # noqa: ARG001 - what every batch takes
    width: Pixels = None,
    height: Pixels = None,
    format: ImageFormat | None = None,
) -> Sequence[str]:
    for name, value in (("width", width), ("height", height)):
        if value is not None and not 1 <= value <= MAX_PIXELS:
            raise InvalidInput(name, f"must be between 1 and {MAX_PIXELS:,}, not {value:,}.")
    suffix = format.value if format else None
    return [build_resized_address(image, width, height, suffix) for image in images]


@strawberry.type(description="A picture of a product. Of one that is kept elsewhere only its address is known.")
class Image:
    id: strawberry.ID | None
    width: int | None = strawberry.field(description="Pixels.")
    height: int | None = strawberry.field(description="Pixels.")
    alt: str | None = strawberry.field(description="What is to be seen, for those who do not see it.")
    placeholder: str | None = strawberry.field(
        description="A tiny, blurred one of some hundred bytes, as a data URL: to be shown enlarged until the picture is there."
    )
    version: int | None

    url: str = batch_field(
        _build_urls,
        description="Where it is: at least as large as asked for, as far as it is, from a fixed set of widths. "
        "With both width and height it is for a box that it is to fit into. What is under an address never changes.",
    )


async def load_media(products: Sequence[Row], info: Info, first: First = 10) -> Sequence[Sequence[ProductImage]]:
    """The first pictures of products, those of all of them loaded together."""
    limit = arguments.check_row_count(first)
    image_ids = [id_ for product in products for address in product.images[:limit] if (id_ := parse_image_id(address))]
    keys = [*dict.fromkeys(image_ids)]
    rows = await info.context.load_many(loaders.load_images, keys) if keys else []
    images_by_id = dict(zip(keys, rows, strict=True))
    return [
        [resolve_product_image(address, product.config_id, images_by_id) for address in product.images[:limit]]
        for product in products
    ]
