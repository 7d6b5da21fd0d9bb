"""The formats of product files: one table for each maker, recognised by its headers, over one common parser.

A table says which column each header is. The keys of columns are those of Shopify's older template, in lower case; a key that
begins with `~` is of the maker's own, from which `adapt` makes the others, row by row.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from html import unescape

from storefront.imports import lossless_cell
from storefront.imports.csv_columns import AMOUNT_COLUMNS, COLUMNS, NUMBER_COLUMNS, OPTION_NUMBERS

Cells = dict[str, str]
# Shopify renamed its columns in 2024. The older names are the keys; case is ignored in both.
SHOPIFY_ALIASES = {
    "url handle": "handle",
    "description": "body (html)",
    "published on online store": "published",
    "sku": "variant sku",
    "price": "variant price",
    "compare-at price": "variant compare at price",
    "inventory tracker": "variant inventory tracker",
    "inventory quantity": "variant inventory qty",
    "continue selling when out of stock": "variant inventory policy",
    "barcode": "variant barcode",
    "weight value (grams)": "variant grams",
    "weight unit for display": "variant weight unit",
    "requires shipping": "variant requires shipping",
    "charge tax": "variant taxable",
    "product image url": "image src",
    "variant image url": "variant image",
    lossless_cell.UNQUOTED_COLUMN.lower(): lossless_cell.QUOTED_COLUMN.lower(),
}
# Columns without a field, whose cells are kept with their variants and exported again.
_KEPT_COLUMN = re.compile(
    r"google shopping / .+|.+\((?:product|variant)\.metafields\..+\)|(?:variant )?metafield: .+"
    r"|(?:included|price|compare[ -]at price|active|.+ price|.+ included) / .+"
    r"|(?:variant )?tax code|(?:variant )?fulfillment service|unit price .+|option[1-3] linked to|collection"
    r"|published scope|template suffix|(?:custom|standard|standardized) product type"
    r"|variant (?:hs code|country of origin|province of origin)"
)
_SHOPIFY_COLUMNS = {column: column for column in COLUMNS} | SHOPIFY_ALIASES
_OPTIONS = [(n, part) for n in OPTION_NUMBERS for part in ("name", "value")]


class UnreadableCellError(ValueError):
    """A cell of a maker's own column that cannot be read, by its key. The message says why."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A maker's product file.

    `columns`: the key of each header, in lower case. `derived`: the columns that `adapt` makes, with the keys that all have to be
    there. `adapt`: makes them, and returns the keys that it did not take of a row. `fills_handles`: rows without a handle and a
    title are of the product before. `has_parents`: products and variants are rows of their own, in any order. `makes_handles`: a
    product without a handle is given one by its title.
    """

    name: str
    label: str
    columns: Mapping[str, str]
    derived: Sequence[tuple[str, tuple[str, ...]]] = ()
    adapt: Callable[[Cells], Sequence[str]] | None = None
    number_keys: frozenset[str] = NUMBER_COLUMNS
    amount_keys: frozenset[str] = AMOUNT_COLUMNS
    fills_handles: bool = False
    has_parents: bool = False
    makes_handles: bool = False


def _parse_decimal(cells: Cells, key: str) -> Decimal | None:
    if not (cell := cells.get(key)):
        return None
    try:
        number = Decimal(cell)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or len(cell) > 30:
        raise UnreadableCellError(key, f"“{cell[:40]}” is not a number: write digits and a point, such as 1299.90")
    return number


_WEIGHT_FACTORS = {
    "g": ("g", Decimal(1)),
    "kg": ("kg", Decimal(1000)),
    "lbs": ("lb", Decimal("453.59237")),
    "lb": ("lb", Decimal("453.59237")),
    "oz": ("oz", Decimal("28.349523125")),
}


def _adapt_weight(cells: Cells, key: str, unit: str) -> None:
    weight = _parse_decimal(cells, key)
    if weight is not None:
        cell, factor = _WEIGHT_FACTORS[unit]
        cells["variant weight unit"] = cell
        cells["variant grams"] = f"{weight * factor:.9f}"


def _split_list(cell: str, separator: str = ",") -> list[str]:
    """The items of a list; a backslash escapes the separator."""
    items = re.split(rf"(?<!\\){re.escape(separator)}", cell)
    return [item.strip().replace(f"\\{separator}", separator) for item in items if item.strip()]


# ------------------------------------------------------------------------------------------------- Shopify

SHOPIFY = FileFormat("shopify", "Shopify", _SHOPIFY_COLUMNS)

# ----------------------------------------------------------------------------------------------- Matrixify

_COMMANDS = {"", "new", "merge", "update"}


def _adapt_matrixify(cells: Cells) -> Sequence[str]:
    command = cells.get("~command", "").lower()
    if command not in _COMMANDS:
        raise UnreadableCellError(
            "~command", f"“{command[:40]}” is not carried out: leave the row out, or write MERGE to create or change the product"
        )
    for key in ("~variant command", "~tags command", "~image command"):
        if cells.get(key, "").lower() not in {*_COMMANDS, "replace"} or (
            key == "~tags command" and cells.get(key, "").lower() == "merge"
        ):
            raise UnreadableCellError(key, f"“{cells[key][:40]}” is not carried out: only what the row states is written")
    if "variant grams" not in cells:
        unit = cells.get("variant weight unit", "g").lower()
        if unit in _WEIGHT_FACTORS:
            _adapt_weight(cells, "~variant weight", unit)
    return ()


MATRIXIFY = FileFormat(
    "matrixify",
    "Matrixify",
    _SHOPIFY_COLUMNS
    | {
        "body html": "body (html)",
        "variant cost": "cost per item",
        "category: name": "product category",
        **{
            f"metafield: {tag}_tag{kind}": f"seo {field}"
            for tag, field in (("title", "title"), ("description", "description"))
            for kind in ("", " [string]", " [single_line_text_field]", " [multi_line_text_field]")
        },
        "command": "~command",
        "variant command": "~variant command",
        "tags command": "~tags command",
        "image command": "~image command",
        "variant weight": "~variant weight",
    },
    derived=(("variant grams", ("~variant weight", "variant weight unit")),),
    adapt=_adapt_matrixify,
    number_keys=NUMBER_COLUMNS | {"~variant weight"},
)

# ---------------------------------------------------------------------------------------------- WooCommerce

_ATTRIBUTES = range(1, 11)
_BACKORDERS = {"": "", "0": "deny", "no": "deny", "1": "continue", "yes": "continue", "notify": "continue"}
_WOO_WEIGHTS = {f"weight ({unit})": f"~weight {unit}" for unit in ("kg", "g", "lbs", "oz")}
# Metadata of widespread plugins.
_WOO_METADATA = {
    "meta: _yoast_wpseo_title": "seo title",
    "meta: rank_math_title": "seo title",
    "meta: _yoast_wpseo_metadesc": "seo description",
    "meta: rank_math_description": "seo description",
    "meta: _wc_cog_cost": "cost per item",
    "cost of goods": "cost per item",
}


_WOO_VARIANT_KEYS = ("variant sku", "variant barcode", "~stock", "~regular price", "~sale price", *_WOO_WEIGHTS.values())


# WordPress stores names as HTML: Salt &amp; Pepper.
_WOO_HTML_KEYS = frozenset(
    {"title", "vendor", "tags", "~categories", "seo title", "seo description"}
    | {f"~attribute {n} {part}" for n in _ATTRIBUTES for part in ("name", "value")}
)


def _adapt_woocommerce(cells: Cells) -> Sequence[str]:
    untaken = list[str]()
    for key in _WOO_HTML_KEYS & cells.keys():
        cells[key] = unescape(cells[key])
    kinds = {kind.strip().lower() for kind in cells.get("~type", "").split(",")}
    is_variation, is_variable = "variation" in kinds, "variable" in kinds
    if is_variation:
        # Its name repeats that of the product.
        for key in ("title", "body (html)", "published", "product category", "tags", "~visibility"):
            cells.pop(key, None)
    if kinds & {"virtual", "downloadable"}:
        cells["variant requires shipping"] = "false"
    _adapt_woo_status(cells)
    _adapt_woo_stock(cells, has_variant=not is_variable)
    _adapt_woo_prices(cells)
    for unit in ("kg", "g", "lbs", "oz"):
        _adapt_weight(cells, f"~weight {unit}", unit)
    if tax := cells.get("~tax status"):
        cells["variant taxable"] = str(tax.lower() == "taxable")
    if categories := _split_list(cells.get("~categories", "")):
        cells["product category"] = categories[0]
        untaken += ["~categories"] if len(categories) > 1 else []
    # Line breaks are written as two characters.
    cells["body (html)"] = cells.get("body (html)", "").replace("\\n", "\n")
    # What its variations do not state themselves is not theirs.
    untaken += [key for key in _WOO_VARIANT_KEYS if is_variable and cells.get(key)]
    untaken += _adapt_woo_attributes(cells, has_options=is_variation)
    if is_variation and (images := cells.pop("image src", "")):
        cells["variant image"] = re.split(r"\s*,\s*(?=https?://)", images)[0]
    cells["~has variant"] = "" if is_variable else "1"
    return untaken


def _adapt_woo_prices(cells: Cells) -> None:
    regular, sale = cells.get("~regular price", ""), cells.get("~sale price", "")
    cells["variant price"] = sale or regular
    if sale and regular:
        cells["variant compare at price"] = regular


def _adapt_woo_status(cells: Cells) -> None:
    if (cell := cells.get("~published")) is not None:
        if cell not in {"1", "0", "-1"}:
            raise UnreadableCellError("~published", f"“{cell[:40]}” is none of 1, 0, -1: use one of them")
        cells["published"] = "true" if cell == "1" else "false"
    if cells.get("~visibility", "").lower() == "hidden":
        cells["published"] = "false"


def _adapt_woo_stock(cells: Cells, *, has_variant: bool) -> None:
    cell = cells.get("~backorders", "").lower()
    if cell not in _BACKORDERS:
        raise UnreadableCellError("~backorders", f"“{cell[:40]}” is none of 0, 1, notify: use one of them")
    cells["variant inventory policy"] = _BACKORDERS[cell]
    stock, in_stock = cells.get("~stock", ""), cells.get("~in stock", "")
    if stock and has_variant:
        cells |= {"variant inventory qty": stock, "variant inventory tracker": "yes"}
    elif in_stock == "0" and has_variant:
        # It is not counted, and there is none.
        cells |= {"variant inventory qty": "0", "variant inventory tracker": "yes"}


def _adapt_woo_attributes(cells: Cells, *, has_options: bool) -> list[str]:
    """The attributes of a variation are its options. Those of products are not imported; those of parents list the options."""
    numbers = [n for n in _ATTRIBUTES if cells.get(f"~attribute {n} value")]
    if not has_options:
        return [] if cells.get("~type", "").lower().startswith("variable") else [f"~attribute {n} value" for n in numbers]
    for number, n in enumerate(numbers[: len(OPTION_NUMBERS)], 1):
        cells[f"option{number} name"] = cells.get(f"~attribute {n} name", "")
        # A comma in a value is escaped, since parents list theirs.
        cells[f"option{number} value"] = cells[f"~attribute {n} value"].replace("\\,", ",")
    return [f"~attribute {n} value" for n in numbers[len(OPTION_NUMBERS) :]]


_WOO_ATTRIBUTE_COLUMNS = {
    f"attribute {n} {header}": f"~attribute {n} {part}"
    for n in _ATTRIBUTES
    for header, part in (("name", "name"), ("value(s)", "value"))
}
WOOCOMMERCE = FileFormat(
    "woocommerce",
    "WooCommerce",
    {
        "id": "~id",
        "type": "~type",
        "sku": "variant sku",
        "gtin, upc, ean, or isbn": "variant barcode",
        "name": "title",
        "published": "~published",
        "visibility in catalog": "~visibility",
        "description": "body (html)",
        "tax status": "~tax status",
        "in stock?": "~in stock",
        "stock": "~stock",
        "backorders allowed?": "~backorders",
        "sale price": "~sale price",
        "regular price": "~regular price",
        "categories": "~categories",
        "tags": "tags",
        "images": "image src",
        "parent": "~parent",
        "brands": "vendor",
        **_WOO_WEIGHTS,
        **_WOO_METADATA,
        **_WOO_ATTRIBUTE_COLUMNS,
    },
    derived=(
        ("published", ("~published",)),
        ("variant taxable", ("~tax status",)),
        ("variant inventory qty", ("~stock",)),
        ("variant inventory tracker", ("~in stock", "~stock")),
        ("variant inventory policy", ("~backorders",)),
        ("variant price", ("~regular price",)),
        ("variant compare at price", ("~sale price", "~regular price")),
        ("product category", ("~categories",)),
        ("variant requires shipping", ("~type",)),
        ("variant image", ("~type", "image src")),
        *((column, (key,)) for key in _WOO_WEIGHTS.values() for column in ("variant grams", "variant weight unit")),
        *((f"option{n} {part}", (f"~attribute {n} {part}", "~type")) for n, part in _OPTIONS),
    ),
    adapt=_adapt_woocommerce,
    number_keys=NUMBER_COLUMNS | {"~stock", "~sale price", "~regular price", *_WOO_WEIGHTS.values()},
    amount_keys=AMOUNT_COLUMNS | {"~sale price", "~regular price"},
    has_parents=True,
    makes_handles=True,
)

# --------------------------------------------------------------------------------------------------- Medusa

_MEDUSA_STATUSES = {"published": "active", "draft": "draft", "proposed": "draft", "rejected": "draft"}


def _adapt_medusa(cells: Cells) -> Sequence[str]:
    if status := cells.get("~status"):
        if status.lower() not in _MEDUSA_STATUSES:
            problem = f"“{status[:40]}” is none of {', '.join(_MEDUSA_STATUSES)}: use one of them"
            raise UnreadableCellError("~status", problem)
        cells["status"] = _MEDUSA_STATUSES[status.lower()]
    cells["tags"] = ",".join(cells[key] for key in sorted(cells) if key.startswith("~tag "))
    images = [cells[key] for key in ("~thumbnail", *(f"~image {n}" for n in _ATTRIBUTES)) if cells.get(key)]
    cells["image src"] = "\n".join(dict.fromkeys(images))
    return ()


def _number(templates: Mapping[str, str], numbers: Sequence[int] = _ATTRIBUTES) -> dict[str, str]:
    """Numbered headers: `{}` is the number in both."""
    return {header.format(n): key.format(n) for n in numbers for header, key in templates.items()}


MEDUSA = FileFormat(
    "medusa",
    "Medusa",
    {
        "product handle": "handle",
        "product title": "title",
        "product description": "body (html)",
        "product status": "~status",
        "product thumbnail": "~thumbnail",
        "product type": "type",
        "product category 1": "product category",
        "product category 1 name": "product category",
        "variant sku": "variant sku",
        "variant barcode": "variant barcode",
        "variant inventory quantity": "variant inventory qty",
        "variant allow backorder": "variant inventory policy",
        "variant manage inventory": "variant inventory tracker",
        "variant weight": "variant grams",
        **_number({"product tag {}": "~tag {}", "product image {} url": "~image {}", "product image {}": "~image {}"}),
        **_number({"image {} url": "~image {}"}),
        **_number({"variant option {} name": "option{} name", "variant option {} value": "option{} value"}, OPTION_NUMBERS),
        **_number({"option {} name": "option{} name", "option {} value": "option{} value"}, OPTION_NUMBERS),
    },
    derived=(("status", ("~status",)), ("tags", ("~tag 1",)), ("image src", ("~image 1",)), ("image src", ("~thumbnail",))),
    adapt=_adapt_medusa,
)
# The headers of prices have a currency.
_PRICE_HEADER = re.compile(r"(?:variant )?price ([a-z]{3})")

# -------------------------------------------------------------------------------------------------- Vendure


def _adapt_vendure(cells: Cells) -> Sequence[str]:
    untaken = list[str]()
    for key, column in (("~assets", "image src"), ("~variant assets", "variant image")):
        urls = _split_list(cells.get(key, ""), "|")
        absolute = [url for url in urls if re.match(r"https?://", url, re.IGNORECASE)]
        # Others are names of files on the server that imports them there.
        untaken += [key] if len(absolute) < len(urls) else []
        cells[column] = "\n".join(absolute)
    cells["variant image"] = cells["variant image"].partition("\n")[0]
    cells["tags"] = ",".join(_split_list(cells.get("~facets", ""), "|"))
    for key, part in (("~option groups", "name"), ("~option values", "value")):
        items = _split_list(cells.get(key, ""), "|")
        untaken += [key] if len(items) > len(OPTION_NUMBERS) else []
        for number, item in enumerate(items[: len(OPTION_NUMBERS)], 1):
            cells[f"option{number} {part}"] = item
    return untaken


VENDURE = FileFormat(
    "vendure",
    "Vendure",
    {
        "name": "title",
        "slug": "handle",
        "description": "body (html)",
        "assets": "~assets",
        "facets": "~facets",
        "optiongroups": "~option groups",
        "optionvalues": "~option values",
        "sku": "variant sku",
        "price": "variant price",
        "stockonhand": "variant inventory qty",
        "trackinventory": "variant inventory tracker",
        "variantassets": "~variant assets",
    },
    derived=(
        ("image src", ("~assets",)),
        ("variant image", ("~variant assets",)),
        ("tags", ("~facets",)),
        *((f"option{n} name", ("~option groups",)) for n in OPTION_NUMBERS),
        *((f"option{n} value", ("~option values",)) for n in OPTION_NUMBERS),
    ),
    adapt=_adapt_vendure,
    fills_handles=True,
)

# ------------------------------------------------------------------------------------------------ plain sheets


def _adapt_plain(cells: Cells) -> Sequence[str]:
    _adapt_weight(cells, "~weight kg", "kg")
    return ()


_PLAIN_COLUMNS = {
    "slug": "handle",
    "product handle": "handle",
    "name": "title",
    "product name": "title",
    "product title": "title",
    "description html": "body (html)",
    "body html": "body (html)",
    "brand": "vendor",
    "manufacturer": "vendor",
    "product type": "type",
    "category": "product category",
    "stock": "variant inventory qty",
    "quantity": "variant inventory qty",
    "qty": "variant inventory qty",
    "inventory": "variant inventory qty",
    "stock quantity": "variant inventory qty",
    "ean": "variant barcode",
    "gtin": "variant barcode",
    "upc": "variant barcode",
    "isbn": "variant barcode",
    "compare at price": "variant compare at price",
    "list price": "variant compare at price",
    "msrp": "variant compare at price",
    "rrp": "variant compare at price",
    "cost": "cost per item",
    "cost price": "cost per item",
    "taxable": "variant taxable",
    "inventory policy": "variant inventory policy",
    "weight (g)": "variant grams",
    "weight g": "variant grams",
    "grams": "variant grams",
    "weight (kg)": "~weight kg",
    "weight kg": "~weight kg",
    "image": "image src",
    "images": "image src",
    "image url": "image src",
    "image urls": "image src",
    "image alt": "image alt text",
}
PLAIN = FileFormat(
    "plain",
    "plain sheet",
    _SHOPIFY_COLUMNS | _PLAIN_COLUMNS,
    derived=(("variant grams", ("~weight kg",)), ("variant weight unit", ("~weight kg",))),
    adapt=_adapt_plain,
    number_keys=NUMBER_COLUMNS | {"~weight kg"},
    makes_handles=True,
)

# A header that is mapped to it is the name of an option.
OPTION_TARGET = "option"
# The first of those that know the most headers is taken. A maker's file has headers that only the maker writes: a sheet without
# any, such as of sku, name and price, is a plain one.
FORMATS = (SHOPIFY, MATRIXIFY, PLAIN, WOOCOMMERCE, MEDUSA, VENDURE)
_KEEPING_FORMATS = (SHOPIFY, MATRIXIFY, PLAIN)
MAX_KEPT_NAME = 255
FORMATS_BY_NAME = {file_format.name: file_format for file_format in FORMATS}


def normalize_header(header: str) -> str:
    """A header without case; underscores are spaces."""
    return header.strip().lower()


def find_column(file_format: FileFormat, header: str, currency: str | None = None) -> str | None:
    """The key of a header; None if the format does not have it. Of prices in several currencies that of the store is taken."""
    name = normalize_header(header)
    key = file_format.columns.get(name)
    if key is None and file_format is PLAIN:
        key = file_format.columns.get(name.replace("_", " ").replace("-", " "))
    if key is None and file_format is MEDUSA and (match := _PRICE_HEADER.fullmatch(name)):
        return "variant price" if currency is not None and match[1] == currency.lower() else None
    return key


def parse_mapping(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A mapping of headers to names of columns, such as price, stock or title. Raises ValueError."""
    mapping = dict[str, str]()
    for header, target in pairs:
        name = normalize_header(target)
        key = OPTION_TARGET if name == OPTION_TARGET else find_column(PLAIN, name)
        if key is None:
            raise ValueError(f"“{target[:100]}” is no column: use one such as handle, sku, title, price, stock, image or option.")
        if normalize_header(header) in mapping:
            raise ValueError(f"“{header[:100]}” is mapped twice.")
        mapping[normalize_header(header)] = key
    return mapping


def is_kept_column(file_format: FileFormat, header: str) -> bool:
    """Whether the cells of a header, which has no field, are kept."""
    return (
        file_format in _KEEPING_FORMATS
        and len(header) <= MAX_KEPT_NAME
        and bool(_KEPT_COLUMN.fullmatch(normalize_header(header)))
    )


def recognize_format(headers: Sequence[str], *, is_mapped: bool = False) -> tuple[FileFormat, int]:
    """The format of a file, and how many of its headers it knows. A mapped file is a plain sheet unless another knows more.

    Formats by whose headers no product can be found come last.
    """
    formats = (PLAIN, *FORMATS) if is_mapped else FORMATS
    counts = [(file_format, count_known_headers(file_format, headers)) for file_format in formats]
    return max(counts, key=lambda counted: (identifies_products(counted[0], headers), counted[1]))


def identifies_products(file_format: FileFormat, headers: Sequence[str]) -> bool:
    """Whether a format has a product for each row of a file with these headers: by handles, SKUs or titles."""
    keys = {find_column(file_format, header) for header in headers}
    return not keys.isdisjoint({"handle", "variant sku", *(["title"] if file_format.makes_handles else [])})


def count_known_headers(file_format: FileFormat, headers: Sequence[str]) -> int:
    """How many headers are of the format. Prices are, whatever their currency."""
    return sum(
        find_column(file_format, header) is not None
        or (file_format is MEDUSA and _PRICE_HEADER.fullmatch(normalize_header(header)) is not None)
        for header in headers
    )
