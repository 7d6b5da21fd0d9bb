"""What the formats of product feeds have in common."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from storefront.core.url_templates import encode_url

# A store as `load_published_store` returns it, a product as a row of `iterate_pages`, and a variant of such a row.
Store = Any
Product = Any
Variant = Mapping[str, Any]

_WHITESPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class FeedFormat(Protocol):
    """A format of product feeds. The parts of a file have a bounded length, so that a server can send one after the other."""

    media_type: str
    # Whether products must have a URL, so that the store needs `productUrlTemplate`.
    needs_product_urls: bool

    def render_header(self, store: Store, /) -> str:
        """What the file begins with."""

    def render_product(self, store: Store, product: Product, /) -> Iterator[str]:
        """The parts of a product."""

    def render_footer(self) -> str:
        """What the file ends with."""


def list_image_urls(product: Product, variant: Variant) -> Sequence[str]:
    """The images of a variant: its own first, then those of the product, in ASCII."""
    own = variant["image"]
    urls = [own, *(url for url in product.images if url != own)] if own else product.images
    return [encode_url(url) for url in urls]


def collapse_whitespace(text: str) -> str:
    """Text on one line, without control characters."""
    return _WHITESPACE.sub(" ", text).strip()
