"""Product images: the `Image` type, with resized URLs."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated

import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import InvalidInput
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.pagination import First
from storefront.models.row_keys import RowKey
from storefront.models.rows import ProductRow
from storefront.queries.images import ProductImage, build_resized_address, parse_image_id, resolve_product_image

MAX_PIXELS = 10_000


@strawberry.enum(description="File format of an image.")
class ImageFormat(Enum):
    JPEG = strawberry.enum_value("jpg", description="JPEG: without transparency, understood by everything.")
    PNG = strawberry.enum_value("png", description="PNG: lossless.")
    WEBP = strawberry.enum_value("webp", description="WebP: supported by all current browsers.")
    AVIF = strawberry.enum_value("avif", description="AVIF: the smallest.")


Width = Annotated[int | None, strawberry.argument(description="Width in device pixels, 1 to 10,000.")]
Height = Annotated[int | None, strawberry.argument(description="Height in device pixels, 1 to 10,000.")]
Format = Annotated[ImageFormat | None, strawberry.argument(description="File format; the original's if omitted.")]


async def _build_urls(
    images: Sequence[ProductImage],
    info: Info,  # noqa: ARG001 - every batch resolver takes it
    width: Width = None,
    height: Height = None,
    format: Format = None,
) -> Sequence[str]:
    for name, value in (("width", width), ("height", height)):
        if value is not None and not 1 <= value <= MAX_PIXELS:
            raise InvalidInput(name, f"must be between 1 and {MAX_PIXELS:,}, not {value:,}.")
    suffix = str(format.value) if format else None
    return [build_resized_address(image, width, height, suffix) for image in images]


@strawberry.type(description="An image of a product. Of images hosted elsewhere only the URL and the alternative text are known.")
class Image:
    id: strawberry.ID = strawberry.field(
        description="Opaque. Stable for an uploaded image, and for the URL of one hosted elsewhere."
    )
    width: int | None = strawberry.field(description="Width of the original in pixels; null if hosted elsewhere.")
    height: int | None = strawberry.field(description="Height of the original in pixels; null if hosted elsewhere.")
    alt: str | None = strawberry.field(description="Alternative text for people who cannot see the image.")
    placeholder: str | None = strawberry.field(
        description="Tiny blurred preview as a data URL, to show while the image loads; null if hosted elsewhere."
    )
    version: int | None = strawberry.field(description="Increases by one with each change; null if hosted elsewhere.")

    url: str = batch_field(
        _build_urls,
        description="URL of the image, in the smallest available size that is at least as large as requested. With `width` and "
        "`height`, the image fits into that box and is not cropped. The content of a URL never changes.",
    )


async def load_gallery(products: Sequence[ProductRow], info: Info, first: First = 10) -> Sequence[Sequence[ProductImage]]:
    """The first images of each product, loaded in one batch."""
    limit = arguments.check_row_count(first)
    return await _load_images([(product.images[:limit], product.image_alts, product.config_id) for product in products], info)


async def load_featured_images(products: Sequence[ProductRow], info: Info) -> Sequence[ProductImage | None]:
    """The first image of each product, or None."""
    firsts = [(product.images[:1], product.image_alts, product.config_id) for product in products]
    galleries = await _load_images(firsts, info)
    return [images[0] if images else None for images in galleries]


async def load_variant_images(variants: Sequence[Row], info: Info) -> Sequence[ProductImage | None]:
    """The image of each variant, or None."""
    galleries = [
        ([variant.image] if variant.image else [], {variant.image: variant.image_alt}, variant.config_id) for variant in variants
    ]
    return [images[0] if images else None for images in await _load_images(galleries, info)]


async def _load_images(
    galleries: Sequence[tuple[Sequence[str], Mapping[str, str | None], str]], info: Info
) -> Sequence[Sequence[ProductImage]]:
    """The images of galleries: URLs, alternative texts of external images, and the id of the store that shows them."""
    image_keys = [
        RowKey(config_id, id_)
        for addresses, _, config_id in galleries
        for address in addresses
        if (id_ := parse_image_id(address))
    ]
    keys = [*dict.fromkeys(image_keys)]
    rows = await info.context.load_many(loaders.load_images, keys) if keys else []
    images_by_key = dict(zip(keys, rows, strict=True))
    return [
        [resolve_product_image(address, config_id, images_by_key, alts.get(address)) for address in addresses]
        for addresses, alts, config_id in galleries
    ]
