"""A product with its variants in each line, with the names of the API."""

from collections.abc import Iterator
from typing import Any

import orjson

from storefront.core.url_templates import expand_template
from storefront.product_feeds.formats import Product, Store, Variant, list_image_urls


class ProductJsonLines:
    """JSON Lines."""

    media_type = "application/jsonl; charset=utf-8"
    needs_product_urls = False

    def render_header(self, _: Store) -> str:
        """Nothing."""
        return ""

    def render_product(self, store: Store, product: Product) -> Iterator[str]:
        """The product and its variants, a part for each."""
        values = {
            "id": product.id,
            "handle": product.handle,
            "url": _build_url(store, product, None),
            "title": product.title,
            "description": product.description,
            "descriptionHtml": product.description_html,
            "vendor": product.vendor,
            "productType": product.product_type,
            "category": product.category,
            "tags": product.tags,
            "images": product.images,
            "options": [
                {"name": option["name"], "values": [value["value"] for value in option["values"]]} for option in product.options
            ],
            "seoTitle": product.seo_title,
            "seoDescription": product.seo_description,
            "giftCard": product.gift_card,
            "inStock": product.in_stock,
            "currency": store.currency,
            "publishedAt": product.published_at,
            "updatedAt": product.updated_at,
        }
        yield orjson.dumps(values).decode().removesuffix("}") + ',"variants":['
        for n, variant in enumerate(product.variants):
            yield ("," if n else "") + orjson.dumps(_build_variant(store, product, variant)).decode()
        yield "]}\n"

    def render_footer(self) -> str:
        """Nothing."""
        return ""


def _build_variant(store: Store, product: Product, variant: Variant) -> dict[str, Any]:
    weight = variant["weight"]
    return {
        "id": variant["id"],
        "name": variant["name"],
        "sku": variant["sku"],
        "barcode": variant["barcode"],
        "price": variant["price"],
        "compareAtPrice": variant["compare_at_price"],
        "inStock": variant["in_stock"],
        "weight": weight and {"value": weight["value"], "unit": weight["unit"].upper()},
        "attributes": [{"name": name, "value": value} for name, value in variant["attributes"].items()],
        "image": next(iter(list_image_urls(product, variant)), None),
        "url": _build_url(store, product, variant),
    }


def _build_url(store: Store, product: Product, variant: Variant | None) -> str | None:
    if store.product_url_template is None:
        return None
    # That of a product is that of its first variant.
    variant_id = variant["id"] if variant else product.variants[0]["id"] if product.variants else ""
    values = {"handle": product.handle, "productId": product.id, "variantId": variant_id}
    return expand_template(store.product_url_template, values)
