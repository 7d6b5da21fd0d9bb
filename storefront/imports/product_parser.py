"""Rows joined to products: what is checked, what is left out and in which words. Knows no file and no database."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from storefront.imports import lossless_cell
from storefront.imports.csv_columns import (
    CELL,
    IMAGES,
    LONGEST,
    OPTIONS,
    PUBLISHED,
    QUANTITY,
    STATUSES,
    SURPLUS_OPTIONS,
    TAG_LENGTH,
    TAGS,
    VARIANTS,
    Layout,
    Record,
    Unusable,
    unstorable,
)
from storefront.imports.row_types import Mark, ProductRow, Rejection, VariantRow

R = TypeVar("R", ProductRow, VariantRow)

NOTHING_MORE = lossless_cell.Exact()

_HANDLE = re.compile(r"(?=.*[^\W_])[\w-]+")
_AMOUNT = re.compile(r"0*([0-9]+)(?:\.([0-9]*?)0*)?", re.ASCII)
_QUANTITY = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?", re.ASCII)
_UNPLACED, _OF_VARIANT = (1, 0), (2, 0)


@dataclass(slots=True)
class _Draft:
    handle: str
    first: Record
    tags: list[str]
    status: str
    options: list[str]
    rows: int = 0
    complete: bool = True
    variants: dict[tuple[str, ...], VariantRow] = field(default_factory=dict)
    gallery: dict[str, tuple[int, int]] = field(default_factory=dict)
    exactly: Mapping[str, Any] = field(default_factory=dict)
    has_variants: bool = False

    def add(self, record: Record) -> None:
        """Take in a row. Everything is checked first: a rejected row leaves no trace."""
        attributes, told = self._attributes(record), _exact(record)
        variant = _variant(record, attributes) if attributes or record["variant price"] or record is self.first else None
        pictures = self._pictures(record)
        if variant:
            self._keep(variant, told.variant)
        if told.product and record is self.first:
            self.exactly = told.product.fields()
        for url, place in pictures.items():
            self.gallery[url] = min(place, self.gallery.get(url, place))
        self.rows += 1

    def _attributes(self, record: Record) -> dict[str, str]:
        if not self.options and record["option1 value"].lower() == "default title":
            return {}
        values = [self._value(record, n) for n in OPTIONS]
        return dict(zip(self.options, values, strict=False)) if any(values) or record["variant price"] else {}

    def _value(self, record: Record, n: int) -> str:
        name = self.options[n - 1] if n <= len(self.options) else ""
        value, renamed = record[f"option{n} value"], record[f"option{n} name"]
        if value and not name:
            raise Unusable(f"option{n} value", f"{_short(value)} needs a name for option {n} on line {self.first.line}")
        if renamed and renamed != name and record is not self.first:
            raise Unusable(f"option{n} name", f"{_short(renamed)} is not the name on line {self.first.line}: leave it empty")
        if name and not value and record["variant price"]:
            raise Unusable(f"option{n} value", f"is missing, every variant needs a value for {_short(name)}")
        return value

    def _keep(self, variant: VariantRow, told: lossless_cell.ExactVariant | None) -> None:
        fields = told.fields() if told else {}
        variant = _sound(replace(variant, **fields))
        # What is told exactly may be twice the same: ours may be, and Shopify's may not.
        combination = (str(variant.line),) * 9 if fields.keys() & {"name", "attributes"} else (*variant.attributes.values(),)
        self.has_variants = self.has_variants or told is not None
        if twin := self.variants.get(combination):
            raise Unusable("option1 value", f"{_short(variant.name)} is already on line {twin.line}: change or remove one")
        if len(self.variants) == VARIANTS:
            raise Unusable("option1 value", f"a product may have {VARIANTS} variants, this is number {VARIANTS + 1}: split it")
        self.variants[combination] = variant

    def _pictures(self, record: Record) -> dict[str, tuple[int, int]]:
        position = record["image position"]
        place = (0, int(position)) if position.isdecimal() and len(position) < 10 else _UNPLACED
        own, of_variant = record["image src"], record["variant image"]
        pictures = {of_variant: _OF_VARIANT, own: place}
        pictures.pop("", None)
        if (count := len(self.gallery.keys() | pictures.keys())) > IMAGES:
            raise Unusable("image src", f"a product may have {IMAGES} images, this is number {count}: remove some")
        return pictures

    def product(self, given: frozenset[str]) -> ProductRow:
        variants, first = list(self.variants.values()), self.first
        cheapest = min(variants, key=lambda variant: variant.price)
        counted = [variant.inventory for variant in variants if variant.inventory is not None]
        row = ProductRow(
            handle=self.handle,
            line=first.line,
            rows=self.rows,
            complete=self.complete,
            given=given,
            title=first["title"],
            description=first["body (html)"] or None,
            price=cheapest.price,
            compare_at_price=cheapest.compare_at_price,
            images=sorted(self.gallery, key=self.gallery.__getitem__),
            category=first["type"] or first["product category"].rpartition(">")[2].strip() or None,
            tags=self.tags,
            # Well-stocked variants may add up to more than the column holds; the most it holds is then right enough.
            inventory=min(sum(counted), QUANTITY) if counted else None,
            track_inventory=bool(counted),
            seo_title=first["seo title"] or None,
            seo_description=first["seo description"] or None,
            status=self.status,
            # Without options the row's price and stock are the product's own; only a SKU has no other place to go.
            variants=variants if self.options or self.has_variants or variants[0].sku else [],
        )
        return _sound(replace(row, **self.exactly)) if self.exactly else row


class Assembly:
    """Joins adjacent rows of one handle.

    With `remembers`, handles already seen are kept: a second group of rows would undo the first. Without, whoever takes the
    products has to see to that.
    """

    def __init__(self, layout: Layout, *, remembers: bool = True) -> None:
        self._layout, self._remembers = layout, remembers
        self._lines: dict[str, int] = {}
        self._handle = ""
        self._returned = False
        self._draft: _Draft | None = None

    def take(self, row: Record | Rejection) -> Iterator[ProductRow | Rejection | Mark]:
        """What is complete with this row: the product before it, and the row itself where it is left out."""
        handle = "" if isinstance(row, Rejection) else "-".join(row["handle"].lower().split())
        # A row that cannot be told apart may be one of the product around it, so it ends none.
        if isinstance(row, Record) and handle != self._handle and _HANDLE.fullmatch(handle):
            yield from self.finish()
            yield Mark({"offset": row.start, "line": row.line, "rows": row.number}, row.start)
            self._handle, self._returned = handle, handle in self._lines
            if not self._remembers:
                self._lines.clear()
        if rejection := row if isinstance(row, Rejection) else self._take(row, handle):
            if self._draft:
                self._draft.complete = False
            yield rejection

    def finish(self) -> Iterator[ProductRow]:
        """The product that was begun, if one was."""
        if self._draft:
            yield self._draft.product(self._layout.given)
        self._draft = None

    def _take(self, record: Record, handle: str) -> Rejection | None:
        try:
            self._place(record, handle)
        except Unusable as fault:
            return self._layout.rejection(record.line, handle, fault.column, fault.problem)
        return None

    def _place(self, record: Record, handle: str) -> None:
        if not _HANDLE.fullmatch(handle):
            fault = f"{_short(handle)} may have only letters, digits, hyphens and underscores" if handle else "is missing"
            raise Unusable("handle", f"{fault}: give every row the handle of its product")
        if self._draft:
            _check(record)
            self._draft.add(record)
        elif self._returned:
            raise Unusable("handle", f"the rows of this product started on line {self._lines[handle]}: move this one up to them")
        elif handle in self._lines:
            raise Unusable("", f"belongs to the rejected product on line {self._lines[handle]}")
        else:
            self._begin(record, handle)

    def _begin(self, record: Record, handle: str) -> None:
        self._lines[handle] = record.line
        _check(record)
        if not record["title"]:
            raise Unusable("title", "is missing on the first row of the product: fill it in")
        draft = _Draft(handle, record, _tags(record), _status(record), _options(record))
        draft.add(record)
        self._draft = draft


def _exact(record: Record) -> lossless_cell.Exact:
    if not (cell := record["storefront"]):
        return NOTHING_MORE
    try:
        return lossless_cell.read(cell)
    except ValueError as error:
        raise Unusable("storefront", f"cannot be read ({error}): empty the cell") from None


def _sound(row: R) -> R:
    """The row without a price before that is below its price."""
    before = row.compare_at_price
    return replace(row, compare_at_price=None) if before is not None and before < row.price else row


def _check(record: Record) -> None:
    if record.surplus:
        raise Unusable("", "the row has more cells than the header: put quotes around a cell that contains commas")
    for column in record.cells.keys() & SURPLUS_OPTIONS:
        if record[column]:
            raise Unusable(column, f"a product may have {len(OPTIONS)} options: leave this one out")
    for column, cell in record.cells.items():
        _check_cell(column, cell)


def _check_cell(column: str, cell: str) -> None:
    # Asked first what is asked fast: there are many cells.
    if ("\0" in cell or not cell.isascii()) and (fault := unstorable(cell)):
        raise Unusable(column, f"contains {fault}: remove it")
    if len(cell) > (longest := LONGEST.get(column, CELL)):
        raise Unusable(column, f"has {len(cell):,} characters, at most {longest:,} are allowed: shorten it")


def _tags(record: Record) -> list[str]:
    tags = list(dict.fromkeys(filter(None, map(str.strip, record["tags"].split(",")))))
    if len(tags) > TAGS:
        raise Unusable("tags", f"has {len(tags)} tags, at most {TAGS} are allowed: remove some")
    if tags and (longest := max(map(len, tags))) > TAG_LENGTH:
        raise Unusable("tags", f"has a tag of {longest:,} characters, at most {TAG_LENGTH} are allowed: shorten it")
    return tags


def _status(record: Record) -> str:
    column = "status" if record["status"] else "published"
    known = STATUSES if record["status"] else PUBLISHED
    if (status := known.get(record[column].lower())) is None:
        raise Unusable(column, f"{_short(record[column])} is none of {', '.join(filter(None, known))}: use one of them")
    return status


def _options(record: Record) -> list[str]:
    names = [record[f"option{n} name"] for n in OPTIONS]
    if names[0].lower() == "title" and record["option1 value"].lower() == "default title":
        return []
    while names and not names[-1]:
        names.pop()
    for n, name in enumerate(names, 1):
        if not name or name in names[: n - 1]:
            fault = f"{_short(name)} names two options" if name else "is missing before a later option"
            raise Unusable(f"option{n} name", f"{fault}: give each option its own name")
    return names


def _variant(record: Record, attributes: dict[str, str]) -> VariantRow:
    price, before = _amount(record, "variant price"), _amount(record, "variant compare at price")
    if price is None:
        raise Unusable("variant price", "is missing: fill it in")
    return VariantRow(
        line=record.line,
        name=" / ".join(attributes.values()) or "Default",
        price=price,
        compare_at_price=before if before and before > price else None,
        attributes=attributes,
        inventory=_inventory(record),
        sku=record["variant sku"] or None,
    )


def _amount(record: Record, column: str) -> Decimal | None:
    if not (cell := record[column]):
        return None
    if not (match := _AMOUNT.fullmatch(cell)):
        raise Unusable(column, f"{_short(cell)} is not an amount of 0 or more: write digits and a point, such as 1299.90")
    whole, cents = match[1], match[2] or ""
    if len(whole) > 8:
        raise Unusable(column, f"{_short(cell)} is too much: it must be below 100,000,000")
    if len(cents) > 2:
        raise Unusable(column, f"{_short(cell)} has more than two decimals: round it")
    return Decimal(f"{whole}.{cents:0<2}")


def _inventory(record: Record) -> int | None:
    column = "variant inventory qty"
    if not (match := _QUANTITY.fullmatch(record[column] or "0")):
        raise Unusable(column, f"{_short(record[column])} is not a whole number: write digits only")
    if (quantity := int(match[1])) > QUANTITY:
        raise Unusable(column, f"{quantity:,} is too much: at most {QUANTITY:,} can be counted")
    # Sold beyond the stock is below zero at Shopify; here that is simply out of stock.
    return max(0, quantity) if record["variant inventory tracker"] else None


def _short(cell: str) -> str:
    return f"“{cell}”" if len(cell) <= 40 else f"“{cell[:39]}…”"
