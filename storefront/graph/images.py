"""Product images: the `Image` type, with resized URLs."""

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import strawberry

from storefront.core.errors import InvalidInput
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.pagination import First
from storefront.models.rows import ProductRow
from storefront.queries.images import ProductImage, build_resized_address, parse_image_id, resolve_product_image

MAX_PIXELS = 10_000

Pixels = Annotated[int | None, strawberry.argument(description="Device pixels, 1 to 10,000.")]


@strawberry.enum(description="File format of an image. All current browsers support WEBP; AVIF is the smallest.")
class ImageFormat(Enum):
    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"
    AVIF = "avif"


async def _build_urls(
    images: Sequence[ProductImage],
    info: Info,  # noqa: ARG001 - every batch resolver takes it
    width: Pixels = None,
    height: Pixels = None,
    format: ImageFormat | None = None,
) -> Sequence[str]:
    for name, value in (("width", width), ("height", height)):
        if value is not None and not 1 <= value <= MAX_PIXELS:
            raise InvalidInput(name, f"must be between 1 and {MAX_PIXELS:,}, not {value:,}.")
    suffix = format.value if format else None
    return [build_resized_address(image, width, height, suffix) for image in images]


@strawberry.type(description="A product image. For images hosted elsewhere only the URL is known.")
class Image:
    id: strawberry.ID | None
    width: int | None = strawberry.field(description="Pixels.")
    height: int | None = strawberry.field(description="Pixels.")
    alt: str | None = strawberry.field(description="Alternative text for screen readers.")
    placeholder: str | None = strawberry.field(
        description="A tiny blurred preview (some hundred bytes) as a data URL, to show until the image has loaded."
    )
    version: int | None

    url: str = batch_field(
        _build_urls,
        description="URL of the image in the smallest of a fixed set of widths that covers the requested size, at most the "
        "original. With both width and height, the image fits into that box. Content under a URL never changes.",
    )


async def load_media(products: Sequence[ProductRow], info: Info, first: First = 10) -> Sequence[Sequence[ProductImage]]:
    """The first images of each product, loaded in one batch."""
    limit = arguments.check_row_count(first)
    image_ids = [id_ for product in products for address in product.images[:limit] if (id_ := parse_image_id(address))]
    keys = [*dict.fromkeys(image_ids)]
    rows = await info.context.load_many(loaders.load_images, keys) if keys else []
    images_by_id = dict(zip(keys, rows, strict=True))
    return [
        [resolve_product_image(address, product.config_id, images_by_id) for address in product.images[:limit]]
        for product in products
    ]
