"""Shopify's product CSV as products and rejected rows, one record at a time. Knows no database."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Protocol, TextIO

# Shopify renamed its columns in 2024. The older names are the keys here; case is ignored in both.
RENAMED = {
    "url handle": "handle",
    "description": "body (html)",
    "published on online store": "published",
    "sku": "variant sku",
    "price": "variant price",
    "compare-at price": "variant compare at price",
    "inventory tracker": "variant inventory tracker",
    "inventory quantity": "variant inventory qty",
    "product image url": "image src",
    "variant image url": "variant image",
}
OPTIONS = range(1, 4)
SURPLUS_OPTIONS = frozenset(f"option{n} {part}" for n in range(4, 10) for part in ("name", "value"))
# In characters. Several of these columns are indexed, and Postgres refuses to index very long values.
LONGEST = {
    **{f"option{n} {part}": 255 for n in OPTIONS for part in ("name", "value")},
    **dict.fromkeys(("handle", "title", "type", "product category", "variant sku", "seo title"), 255),
    **dict.fromkeys(("body (html)", "seo description"), 65_536),
    **dict.fromkeys(("image src", "variant image"), 2_048),
    **dict.fromkeys(("variant price", "variant compare at price", "variant inventory qty"), 64),
}
COLUMNS = frozenset(LONGEST) | SURPLUS_OPTIONS | set(RENAMED.values()) | {"tags", "status", "image position"}
# Which columns a field comes from. Title and price are always there.
SOURCES = {
    "title": ("title",),
    "price": ("title",),
    "name": ("title",),
    "attributes": ("title",),
    "description": ("body (html)",),
    "compare_at_price": ("variant compare at price",),
    "images": ("image src", "variant image"),
    "category": ("type", "product category"),
    "tags": ("tags",),
    "inventory": ("variant inventory qty", "variant inventory tracker"),
    "track_inventory": ("variant inventory qty", "variant inventory tracker"),
    "seo_title": ("seo title",),
    "seo_description": ("seo description",),
    "status": ("status", "published"),
    "sku": ("variant sku",),
}
CELL = 131_072
TAGS = IMAGES = 250
TAG_LENGTH = 255
VARIANTS = 2_048
QUANTITY = 2_147_483_647
STATUSES = {"active": "active", "draft": "inactive", "archived": "archived"}
PUBLISHED = {"": "active", "true": "active", "false": "inactive"}

_HANDLE = re.compile(r"(?=.*[^\W_])[\w-]+")
_AMOUNT = re.compile(r"0*([0-9]+)(?:\.([0-9]*?)0*)?", re.ASCII)
_QUANTITY = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?", re.ASCII)
_UNPLACED, _OF_VARIANT = (1, 0), (2, 0)


class UnreadableFile(ValueError):
    """The file is no product CSV at all. The message says why, for the one who chose the file."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was left out. `line` is where its record starts, the header being line 1; `reason` names column and mend."""

    file: str
    line: int
    reason: str
    handle: str | None = None


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant. `inventory` is None where stock is not tracked."""

    line: int
    name: str
    price: Decimal
    compare_at_price: Decimal | None
    attributes: dict[str, str]
    inventory: int | None
    sku: str | None


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product, made of `rows` rows from `line` on. Not `complete`: some of its rows were rejected.

    `given` names the fields, of it and of its variants, that the file has columns for: of the others it says nothing.
    """

    handle: str
    line: int
    rows: int
    complete: bool
    given: frozenset[str]
    title: str
    description: str | None
    price: Decimal
    compare_at_price: Decimal | None
    images: list[str]
    category: str | None
    tags: list[str]
    inventory: int | None
    track_inventory: bool
    seo_title: str | None
    seo_description: str | None
    status: str
    variants: list[VariantRow]


def read(file: TextIO, name: str) -> Iterator[ProductRow | Rejection]:
    """The products and rejected rows of a file opened with `newline=""`, in file order; `name` is for the rejections.

    Of what was read only the handles are kept. Raises UnreadableFile at once if the header is not that of a product CSV.
    """
    try:
        # A byte order mark before a quoted name would hide the quote from the parser.
        first = next(file, "").removeprefix("\ufeff")
        # Strict, because the lenient parser takes all that follows an unclosed quote for one cell without a word.
        records = csv.reader(chain([first], file), strict=True)
        layout = _layout(next(records, []), name)
    except UnicodeDecodeError:
        raise UnreadableFile(f"{name}: is not UTF-8 text: save it as “CSV UTF-8”.") from None
    except csv.Error as error:
        raise UnreadableFile(f"{name}: the header row cannot be read ({error}).") from None
    return _Assembly(layout).products(_records(records, layout))


class _Reader(Protocol):
    @property
    def line_num(self) -> int: ...
    def __next__(self) -> list[str]: ...


class _Unusable(Exception):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(column, reason)
        self.column, self.reason = column, reason


@dataclass(frozen=True, slots=True)
class _Layout:
    file: str
    width: int
    places: Mapping[str, int]
    spellings: Mapping[str, str]

    @property
    def given(self) -> frozenset[str]:
        """The fields that the file has a column for."""
        return frozenset(name for name, columns in SOURCES.items() if any(column in self.places for column in columns))

    def rejection(self, line: int, handle: str | None, column: str, reason: str) -> Rejection:
        where = f"{self.spellings.get(column, column.title())}: " if column else ""
        return Rejection(self.file, line, where + reason, handle or None)


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    cells: Mapping[str, str]
    surplus: int

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def _layout(header: Sequence[str], name: str) -> _Layout:
    places: dict[str, int] = {}
    for place, spelling in enumerate(header):
        column = spelling.strip().lower()
        places.setdefault(RENAMED.get(column, column), place)
    for column, spellings in (("handle", "“Handle” or “URL handle”"), ("title", "“Title”")):
        if column not in places:
            raise UnreadableFile(f"{name}: the header row has no column {spellings}. Is it a product CSV separated by commas?")
    known = {column: place for column, place in places.items() if column in COLUMNS}
    return _Layout(name, len(header), known, {column: header[place].strip() for column, place in known.items()})


def _records(reader: _Reader, layout: _Layout) -> Iterator[_Record | Rejection]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError:
            yield layout.rejection(line, None, "", "not UTF-8 text from here on, reading stopped: save it as “CSV UTF-8”")
            return
        except csv.Error as error:
            # The parser starts afresh on the next line, so one broken record does not cost the rest of the file.
            where = f"lines {line} to {reader.line_num} left out"
            yield layout.rejection(line, None, "", f"not valid CSV ({error}), {where}: mend the quotes")
        else:
            yield from _filled(line, cells, layout)


def _filled(line: int, cells: Sequence[str], layout: _Layout) -> Iterator[_Record]:
    """The record, unless it is an empty line of a spreadsheet."""
    if any(cells):
        named = {column: cells[n].strip() for column, n in layout.places.items() if n < len(cells) and cells[n]}
        yield _Record(line, named, sum(map(bool, cells[layout.width :])))


@dataclass(slots=True)
class _Draft:
    handle: str
    first: _Record
    tags: list[str]
    status: str
    options: list[str]
    rows: int = 0
    complete: bool = True
    variants: dict[tuple[str, ...], VariantRow] = field(default_factory=dict)
    gallery: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, record: _Record) -> None:
        """Take in a row. Everything is checked first: a rejected row leaves no trace."""
        attributes = self._attributes(record)
        variant = _variant(record, attributes) if attributes or record["variant price"] or record is self.first else None
        pictures = self._pictures(record)
        if variant:
            self._keep(variant)
        for url, place in pictures.items():
            self.gallery[url] = min(place, self.gallery.get(url, place))
        self.rows += 1

    def _attributes(self, record: _Record) -> dict[str, str]:
        if not self.options and record["option1 value"].lower() == "default title":
            return {}
        values = [self._value(record, n) for n in OPTIONS]
        return dict(zip(self.options, values, strict=False)) if any(values) or record["variant price"] else {}

    def _value(self, record: _Record, n: int) -> str:
        name = self.options[n - 1] if n <= len(self.options) else ""
        value, renamed = record[f"option{n} value"], record[f"option{n} name"]
        if value and not name:
            raise _Unusable(f"option{n} value", f"{_short(value)} needs a name for option {n} on line {self.first.line}")
        if renamed and renamed != name and record is not self.first:
            raise _Unusable(f"option{n} name", f"{_short(renamed)} is not the name on line {self.first.line}: leave it empty")
        if name and not value and record["variant price"]:
            raise _Unusable(f"option{n} value", f"is missing, every variant needs a value for {_short(name)}")
        return value

    def _keep(self, variant: VariantRow) -> None:
        combination = tuple(variant.attributes.values())
        if twin := self.variants.get(combination):
            raise _Unusable("option1 value", f"{_short(variant.name)} is already on line {twin.line}: change or remove one")
        if len(self.variants) == VARIANTS:
            raise _Unusable("option1 value", f"a product may have {VARIANTS} variants, this is number {VARIANTS + 1}: split it")
        self.variants[combination] = variant

    def _pictures(self, record: _Record) -> dict[str, tuple[int, int]]:
        position = record["image position"]
        place = (0, int(position)) if position.isdecimal() and len(position) < 10 else _UNPLACED
        own, of_variant = record["image src"], record["variant image"]
        pictures = {of_variant: _OF_VARIANT, own: place}
        pictures.pop("", None)
        if (count := len(self.gallery.keys() | pictures.keys())) > IMAGES:
            raise _Unusable("image src", f"a product may have {IMAGES} images, this is number {count}: remove some")
        return pictures

    def product(self, given: frozenset[str]) -> ProductRow:
        variants, first = list(self.variants.values()), self.first
        cheapest = min(variants, key=lambda variant: variant.price)
        counted = [variant.inventory for variant in variants if variant.inventory is not None]
        return ProductRow(
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
            variants=variants if self.options or variants[0].sku else [],
        )


class _Assembly:
    """Joins adjacent rows of one handle. Handles already seen are kept: a second group would undo the first."""

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        self._lines: dict[str, int] = {}
        self._handle = ""
        self._returned = False
        self._draft: _Draft | None = None

    def products(self, records: Iterator[_Record | Rejection]) -> Iterator[ProductRow | Rejection]:
        for record in records:
            handle = "" if isinstance(record, Rejection) else "-".join(record["handle"].lower().split())
            # A row that cannot be told apart may be one of the product around it, so it ends none.
            if _HANDLE.fullmatch(handle) and handle != self._handle:
                yield from self._finish()
                self._handle, self._returned = handle, handle in self._lines
            if rejection := record if isinstance(record, Rejection) else self._take(record, handle):
                if self._draft:
                    self._draft.complete = False
                yield rejection
        yield from self._finish()

    def _take(self, record: _Record, handle: str) -> Rejection | None:
        try:
            self._place(record, handle)
        except _Unusable as fault:
            return self._layout.rejection(record.line, handle, fault.column, fault.reason)
        return None

    def _place(self, record: _Record, handle: str) -> None:
        if not _HANDLE.fullmatch(handle):
            fault = f"{_short(handle)} may have only letters, digits, hyphens and underscores" if handle else "is missing"
            raise _Unusable("handle", f"{fault}: give every row the handle of its product")
        if self._draft:
            _check(record)
            self._draft.add(record)
        elif self._returned:
            raise _Unusable("handle", f"the rows of this product started on line {self._lines[handle]}: move this one up to them")
        elif handle in self._lines:
            raise _Unusable("", f"belongs to the rejected product on line {self._lines[handle]}")
        else:
            self._begin(record, handle)

    def _begin(self, record: _Record, handle: str) -> None:
        self._lines[handle] = record.line
        _check(record)
        if not record["title"]:
            raise _Unusable("title", "is missing on the first row of the product: fill it in")
        draft = _Draft(handle, record, _tags(record), _status(record), _options(record))
        draft.add(record)
        self._draft = draft

    def _finish(self) -> Iterator[ProductRow]:
        if self._draft:
            yield self._draft.product(self._layout.given)
        self._draft = None


def _check(record: _Record) -> None:
    if record.surplus:
        raise _Unusable("", "the row has more cells than the header: put quotes around a cell that contains commas")
    for column in record.cells.keys() & SURPLUS_OPTIONS:
        if record[column]:
            raise _Unusable(column, f"a product may have {len(OPTIONS)} options: leave this one out")
    for column, cell in record.cells.items():
        _check_cell(column, cell)


def _check_cell(column: str, cell: str) -> None:
    if "\0" in cell:
        raise _Unusable(column, "contains a NUL character: remove it")
    if len(cell) > (longest := LONGEST.get(column, CELL)):
        raise _Unusable(column, f"has {len(cell):,} characters, at most {longest:,} are allowed: shorten it")


def _tags(record: _Record) -> list[str]:
    tags = list(dict.fromkeys(filter(None, map(str.strip, record["tags"].split(",")))))
    if len(tags) > TAGS:
        raise _Unusable("tags", f"has {len(tags)} tags, at most {TAGS} are allowed: remove some")
    if tags and (longest := max(map(len, tags))) > TAG_LENGTH:
        raise _Unusable("tags", f"has a tag of {longest:,} characters, at most {TAG_LENGTH} are allowed: shorten it")
    return tags


def _status(record: _Record) -> str:
    column = "status" if record["status"] else "published"
    known = STATUSES if record["status"] else PUBLISHED
    if (status := known.get(record[column].lower())) is None:
        raise _Unusable(column, f"{_short(record[column])} is none of {', '.join(filter(None, known))}: use one of them")
    return status


def _options(record: _Record) -> list[str]:
    names = [record[f"option{n} name"] for n in OPTIONS]
    if names[0].lower() == "title" and record["option1 value"].lower() == "default title":
        return []
    while names and not names[-1]:
        names.pop()
    for n, name in enumerate(names, 1):
        if not name or name in names[: n - 1]:
            fault = f"{_short(name)} names two options" if name else "is missing before a later option"
            raise _Unusable(f"option{n} name", f"{fault}: give each option its own name")
    return names


def _variant(record: _Record, attributes: dict[str, str]) -> VariantRow:
    price, before = _amount(record, "variant price"), _amount(record, "variant compare at price")
    if price is None:
        raise _Unusable("variant price", "is missing: fill it in")
    return VariantRow(
        line=record.line,
        name=" / ".join(attributes.values()) or "Default",
        price=price,
        compare_at_price=before if before and before > price else None,
        attributes=attributes,
        inventory=_inventory(record),
        sku=record["variant sku"] or None,
    )


def _amount(record: _Record, column: str) -> Decimal | None:
    if not (cell := record[column]):
        return None
    if not (match := _AMOUNT.fullmatch(cell)):
        raise _Unusable(column, f"{_short(cell)} is not an amount of 0 or more: write digits and a point, such as 1299.90")
    whole, cents = match[1], match[2] or ""
    if len(whole) > 8:
        raise _Unusable(column, f"{_short(cell)} is too much: it must be below 100,000,000")
    if len(cents) > 2:
        raise _Unusable(column, f"{_short(cell)} has more than two decimals: round it")
    return Decimal(f"{whole}.{cents:0<2}")


def _inventory(record: _Record) -> int | None:
    column = "variant inventory qty"
    if not (match := _QUANTITY.fullmatch(record[column] or "0")):
        raise _Unusable(column, f"{_short(record[column])} is not a whole number: write digits only")
    if (quantity := int(match[1])) > QUANTITY:
        raise _Unusable(column, f"{quantity:,} is too much: at most {QUANTITY:,} can be counted")
    # Sold beyond the stock is below zero at Shopify; here that is simply out of stock.
    return max(0, quantity) if record["variant inventory tracker"] else None


def _short(cell: str) -> str:
    return f"“{cell}”" if len(cell) <= 40 else f"“{cell[:39]}…”"
