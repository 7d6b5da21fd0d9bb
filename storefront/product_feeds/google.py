"""Google Merchant's product feed: RSS 2.0 with the namespace g:, and tab-separated values. A row is a variant.

The attributes, their limits and their values are those of Google's product data specification.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from storefront.core.url_templates import expand_template, get_origin
from storefront.product_feeds.formats import Product, Store, Variant, collapse_whitespace, list_image_urls
from storefront.queries.images import parse_image_id

MAX_ADDITIONAL_IMAGES = 10
MAX_ID_CHARACTERS, MAX_TITLE_CHARACTERS, MAX_DESCRIPTION_CHARACTERS = 50, 150, 5_000
ADDITIONAL_IMAGES = "additional_image_link"
# The columns of the tab-separated file.
ATTRIBUTES = (
    *("id", "item_group_id", "title", "description", "link", "image_link", ADDITIONAL_IMAGES, "availability", "price"),
    *("sale_price", "brand", "gtin", "mpn", "identifier_exists", "condition", "product_type", "google_product_category"),
    *("color", "size", "material", "pattern", "gender", "age_group", "shipping_weight"),
)
MAX_CHARACTERS = {"brand": 70, "mpn": 70, "product_type": 750, "google_product_category": 750} | dict.fromkeys(
    ("color", "size", "pattern"), 100
)
DEFAULT_MAX_CHARACTERS = 200

# Elements that RSS has itself.
_RSS_ELEMENTS = {"title", "description", "link"}
_ATTRIBUTE_BY_OPTION = {"colour": "color"} | {name: name for name in ("color", "size", "material", "pattern")}
_UNITS = {"gram": "g", "kilogram": "kg", "ounce": "oz", "pound": "lb"}
# The cells of Google Shopping that are published, with their values. Others, such as labels of campaigns, are the owner's.
_CELL_VALUES: Mapping[str, Sequence[str] | None] = {
    "google_product_category": None,
    "mpn": None,
    "condition": ("new", "refurbished", "used"),
    "gender": ("male", "female", "unisex"),
    "age_group": ("newborn", "infant", "toddler", "kids", "adult"),
}
_CELL_COLUMN = re.compile(r"google shopping / (?P<shown>.+)|.+\.mm-google-shopping\.(?P<key>[a-z_]+)\)")
# Control characters that XML 1.0 forbids even as references, and code points that are no characters.
_INVALID_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LINE_BREAK = re.compile(r"\r\n?")

# The values of an item by attribute. Additional images are several.
Item = dict[str, str | list[str]]


def build_items(store: Store, product: Product) -> Iterator[Item]:
    """The items of a product: one for each variant. Attributes without a value are left out."""
    first_cells = _parse_cells(product.cells)
    shared: dict[str, str | None] = {
        "item_group_id": product.id if product.options else None,
        "description": (product.description or product.title)[:MAX_DESCRIPTION_CHARACTERS],
        "brand": product.vendor,
        "condition": "new",
        "product_type": product.category,
        **first_cells,
    }
    # What is a variant's own need not be that of others.
    if product.options:
        shared.pop("mpn", None)
    common = {name: text for name, value in shared.items() if value and (text := _fit(name, value))}
    for variant in product.variants:
        yield {**common, **_build_variant_attributes(store, product, variant, common)}


def _build_variant_attributes(store: Store, product: Product, variant: Variant, common: Mapping[str, str]) -> Item:
    cells = _parse_cells(variant["cells"])
    price, compare_at_price, weight = variant["price"], variant["compare_at_price"], variant["weight"]
    gtin = parse_gtin(variant["barcode"])
    mpn = cells.get("mpn") or common.get("mpn")
    values: dict[str, str | None] = {
        **{name: variant["attributes"][option] for name, option in _find_options(variant)},
        **cells,
        "id": _choose_id(variant),
        "title": _build_title(product.title, variant["name"] if variant["attributes"] else ""),
        "link": expand_template(
            store.product_url_template, {"handle": product.handle, "productId": product.id, "variantId": variant["id"]}
        ),
        "availability": "in_stock" if variant["in_stock"] else "out_of_stock",
        "price": f"{compare_at_price or price} {store.currency}",
        "sale_price": f"{price} {store.currency}" if compare_at_price else None,
        "gtin": gtin,
        # The attribute says that the manufacturer gave none: it is right where neither is known.
        "identifier_exists": None if gtin or (mpn and common.get("brand")) else "no",
        "shipping_weight": f"{weight['value']} {_UNITS[weight['unit']]}" if weight else None,
    }
    item: Item = {name: text for name, value in values.items() if value and (text := _fit(name, value))}
    if images := [*map(_choose_format, list_image_urls(product, variant))]:
        item["image_link"] = images[0]
        item[ADDITIONAL_IMAGES] = [*images[1 : 1 + MAX_ADDITIONAL_IMAGES]]
    return item


def _choose_format(url: str) -> str:
    # Google does not read AVIF. Images of this server are served in other formats, too.
    return f"{url.removesuffix('.avif')}.jpg" if url.endswith(".avif") and parse_image_id(url) else url


def _choose_id(variant: Variant) -> str:
    """The SKU, if no older variant has it and it fits; else the id, which stays when the SKU changes."""
    sku = variant["sku"] or ""
    is_usable = sku and len(sku) <= MAX_ID_CHARACTERS and sku == collapse_whitespace(sku) and variant["is_first_of_sku"]
    return str(sku if is_usable else variant["id"])


def _build_title(title: str, variant_name: str) -> str:
    suffix = f" - {variant_name}" if variant_name else ""
    # What tells variants apart comes last, and must not be cut off first.
    room = max(MAX_TITLE_CHARACTERS - len(suffix), MAX_TITLE_CHARACTERS // 2)
    return f"{title[:room].rstrip()}{suffix}"[:MAX_TITLE_CHARACTERS]


def _find_options(variant: Variant) -> Iterator[tuple[str, str]]:
    for option in variant["attributes"]:
        if name := _ATTRIBUTE_BY_OPTION.get(option.strip().lower()):
            yield name, option


def _fit(name: str, value: str) -> str:
    # Line breaks of descriptions are part of them; `link` and the like have limits that they cannot reach.
    if name == "description":
        return value
    text = collapse_whitespace(value)
    return text if name in {"link", "title"} else text[: MAX_CHARACTERS.get(name, DEFAULT_MAX_CHARACTERS)]


def _parse_cells(cells: Mapping[str, str] | None) -> dict[str, str]:
    """The published values among cells of Google Shopping, by attribute."""
    values = dict[str, str]()
    for column, cell in (cells or {}).items():
        match = _CELL_COLUMN.fullmatch(column.lower())
        name = (match["shown"] or match["key"]).strip().replace(" ", "_") if match else ""
        if name in _CELL_VALUES and (text := collapse_whitespace(cell)):
            allowed = _CELL_VALUES[name]
            if allowed is None or text.lower() in allowed:
                values[name] = text if allowed is None else text.lower()
    return values


def parse_gtin(barcode: str | None) -> str | None:
    """The barcode, if it is a valid GTIN of 8, 12, 13 or 14 digits that identifies a product everywhere; else None.

    Numbers that begin with 02, 04 or 2 are for use within a company, those with 05, 98 and 99 are coupons.
    """
    digits = re.sub(r"[\s-]", "", barcode or "")
    if not (digits.isascii() and digits.isdigit() and len(digits) in (8, 12, 13, 14)):
        return None
    padded = digits.zfill(14)
    checksum = sum(int(digit) * (3 if n % 2 == 0 else 1) for n, digit in enumerate(padded))
    # The prefix follows the digit of the packaging level. Short numbers have prefixes of their own.
    is_restricted = len(digits) > 8 and re.match(r"02[0-9]|04[0-9]|05[0-9]|2|98|99", padded[1:])
    return None if checksum % 10 or is_restricted or not int(digits) else digits


def remove_invalid_characters(text: str) -> str:
    """Text without the characters that XML 1.0 cannot express; line breaks as parsers return them."""
    return _LINE_BREAK.sub("\n", _INVALID_IN_XML.sub("", text))


def _render_element(name: str, text: str) -> str:
    tag = name if name in _RSS_ELEMENTS else f"g:{name}"
    return f"<{tag}>{escape(remove_invalid_characters(text))}</{tag}>"


class GoogleXml:
    """RSS 2.0 with Google's namespace."""

    media_type = "application/xml; charset=utf-8"
    needs_product_urls = True

    def render_header(self, store: Store) -> str:
        """The beginning of the channel, with the name of the store."""
        texts = {"title": store.store_name, "link": get_origin(store.product_url_template)}
        texts["description"] = store.description or store.store_name
        channel = "".join(_render_element(name, text) for name, text in texts.items())
        root = '<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0">'
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{root}<channel>{channel}\n'

    def render_product(self, store: Store, product: Product) -> Iterator[str]:
        """An `<item>` for each variant."""
        # The same in all items, and long.
        rendered: dict[str, str] = {}
        for item in build_items(store, product):
            elements = []
            for name, value in item.items():
                if name == "description":
                    elements.append(rendered.get(name) or rendered.setdefault(name, _render_element(name, str(value))))
                else:
                    texts = value if isinstance(value, list) else [value]
                    elements += [_render_element(name, text) for text in texts]
            yield f"<item>{''.join(elements)}</item>\n"

    def render_footer(self) -> str:
        """The end of the channel."""
        return "</channel></rss>\n"


class GoogleTsv:
    """Tab-separated values. No value has a tab or a line break; those with a quote are quoted."""

    media_type = "text/tab-separated-values; charset=utf-8"
    needs_product_urls = True

    def render_header(self, _: Store) -> str:
        """The names of the attributes."""
        return "\t".join(ATTRIBUTES) + "\n"

    def render_product(self, store: Store, product: Product) -> Iterator[str]:
        """A line for each variant."""
        for item in build_items(store, product):
            yield "\t".join(_render_value(item.get(name, "")) for name in ATTRIBUTES) + "\n"

    def render_footer(self) -> str:
        """Nothing."""
        return ""


def _render_value(value: str | list[str]) -> str:
    # A comma separates the URLs of a list.
    text = value if isinstance(value, str) else ",".join(url.replace(",", "%2C") for url in value)
    line = collapse_whitespace(text)
    return '"' + line.replace('"', '""') + '"' if '"' in line else line
