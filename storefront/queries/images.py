"""Images by id, and their URLs. Only these widths and formats are served, so that clients cannot request arbitrary renditions."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from hmac import compare_digest
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import select

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.image_processing import ENCODER_FORMATS
from storefront.models import images
from storefront.models.row_keys import RowKey, are_of_single_store, build_key_parameters
from storefront.models.rows import ImageRow
from storefront.queries.batching import align_by_key
from storefront.queries.paging import select_of_keys
from storefront.queries.store_lookup import find_row_key

MEDIA_PATH = "/media"
# Key prefixes of images in the object storage. Pictures below the second are shared by several images, and never deleted.
MEDIA_PREFIX = "media/"
SHARED_PREFIX = f"{MEDIA_PREFIX}shared/"
# The widths of renditions in pixels; each image also has its original width.
RENDITION_WIDTHS = (32, 64, 128, 256, 384, 512, 640, 768, 1_024, 1_280, 1_600, 2_048, 2_560, 3_200)
# The rendition at the original width.
FULL_SIZE_NAME = "full"

_ADDRESS_KEY_PATTERN = r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(?P<token>[0-9a-f]{32})"
_IMAGE_ADDRESS_PATTERN = re.compile(rf"{MEDIA_PATH}/{_ADDRESS_KEY_PATTERN}/{FULL_SIZE_NAME}\.[a-z]+$")
_RENDITION_NAME_PATTERN = re.compile(
    rf"(?P<width>{FULL_SIZE_NAME}|[1-9][0-9]{{1,3}})\.(?P<extension>{'|'.join(ENCODER_FORMATS)})"
)


class ProductImage(NamedTuple):
    """An image of a product: its URL and metadata. External images have an id that is computed from the URL, and no metadata."""

    address: str
    id: str
    width: int | None = None
    height: int | None = None
    alt: str | None = None
    placeholder: str | None = None
    version: int | None = None
    extension: str | None = None
    place: str | None = None


async def load_images_by_keys(database: Database, keys: Sequence[RowKey]) -> list[ImageRow | None]:
    """The images with these keys."""
    rows = await database.fetch(_select_by_keys(are_of_single_store(keys)), build_key_parameters(keys))
    return align_by_key(rows, [key.id for key in keys])


@cache
def _select_by_keys(is_single_store: bool) -> Statement:
    return compile_statement(select_of_keys(select(images), images, is_single_store), depends_on=INHERITED_DEPENDENCY)


async def load_image_by_address_key(database: Database, address_key: str) -> ImageRow | None:
    """The image with this key (id and token) in its URL; None if the token is wrong."""
    key_match = re.fullmatch(_ADDRESS_KEY_PATTERN, address_key)
    key = await find_row_key(database, key_match["id"]) if key_match else None
    (row,) = await load_images_by_keys(database, [key]) if key else [None]
    is_valid_token = row is not None and key_match is not None and compare_digest(row.token, key_match["token"])
    return row if is_valid_token else None


def build_image_address(base_url: str, image_id: str, token: str, extension: str) -> str:
    """The URL of an image at its original width, as product `images` list it. The token is unguessable."""
    return f"{base_url}{MEDIA_PATH}/{image_id}-{token}/{FULL_SIZE_NAME}.{extension}"


def parse_image_id(address: str) -> str | None:
    """The image id in a URL of this form; None for others. Does not check the token."""
    match = _IMAGE_ADDRESS_PATTERN.search(address)
    return match["id"] if match else None


def resolve_product_image(
    address: str, config_id: str, images_by_key: Mapping[RowKey, ImageRow | None], alt: str | None = None
) -> ProductImage:
    """The image of a URL that this store shows. Images of other stores are treated as external. `alt`: of an external image."""
    row = images_by_key.get(RowKey(config_id, parse_image_id(address) or ""))
    if row is not None and is_image_address(row, address):
        return build_product_image(address, row)
    return ProductImage(address, str(uuid5(NAMESPACE_URL, address)), alt=alt)


def is_image_address(row: ImageRow, address: str) -> bool:
    """Whether a URL with the id of this image is the URL of the image."""
    return row.swept_at is None and f"-{row.token}/" in address


def build_product_image(address: str, row: ImageRow) -> ProductImage:
    """A hosted image."""
    return ProductImage(address, row.id, row.width, row.height, row.alt, row.placeholder, row.version, row.extension, row.place)


def build_resized_address(image: ProductImage, width: int | None, height: int | None, extension: str | None) -> str:
    """The URL of the smallest rendition that covers this size, in a format. External images keep their URL."""
    if image.width is None or image.height is None:
        return image.address
    needed_width = max(width or 0, -(-(height or 0) * image.width // image.height)) or image.width
    if width and height:
        # With both given, fit inside the box instead of covering it.
        needed_width = min(width, -(-height * image.width // image.height))
    rendition = next(
        (candidate_width for candidate_width in RENDITION_WIDTHS if needed_width <= candidate_width < image.width), FULL_SIZE_NAME
    )
    return f"{image.address.rpartition('/')[0]}/{rendition}.{extension or image.extension}"


def parse_rendition_name(name: str, original_width: int) -> tuple[int, str] | None:
    """The width and the format of a rendition name; None if an image of this width has no such rendition."""
    match = _RENDITION_NAME_PATTERN.fullmatch(name)
    if match is None:
        return None
    if match["width"] == FULL_SIZE_NAME:
        return original_width, match["extension"]
    requested_width = int(match["width"])
    return (
        (requested_width, match["extension"])
        if requested_width in RENDITION_WIDTHS and requested_width < original_width
        else None
    )
