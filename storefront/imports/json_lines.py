"""JSON Lines: a product with all of its fields in each line, which an import reads as it was exported.

Fields have the names and the text of the API: amounts are strings. What a line does not have stays as it is, and null clears. A
product with many variants continues on the next lines, which have its handle and more variants.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import orjson
from pydantic_core import SchemaValidator, ValidationError, core_schema

from storefront.core.handles import normalize_handle
from storefront.imports.csv_columns import (
    COLUMNS_BY_FIELD,
    DEFAULT_MAX_CELL_LENGTH,
    MAX_HANDLE_CHARACTERS,
    PRODUCT_FIELD_NAMES,
    VARIANT_FIELD_NAMES,
)
from storefront.imports.files.opening import FileOrigin
from storefront.imports.formats import MAX_KEPT_NAME
from storefront.imports.lossless_cell import build_fields_schema, build_text_schema, to_json_fields
from storefront.imports.row_types import (
    Checkpoint,
    EarlyStop,
    ProductRow,
    RowError,
    SourceItem,
    SourceLayout,
    UnwritableProductError,
    VariantRow,
    sanitize_excerpt,
)
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS
from storefront.models.variant import MAX_ATTRIBUTES, MAX_VARIANTS, build_variant_name, fold_attributes
from storefront.models.writable_fields import Amount
from storefront.writes.validation import InvalidValueError, validate_colour, validate_url

# Limits of a line, as of a record of CSV: to parse one takes up to 10 ms of CPU. Every value but the first follows a comma, or
# begins with its list or object: a megabyte of lists in lists has no comma, and takes 300 ms.
MAX_LINE_BYTES, MAX_LINE_COMMAS, MAX_LINE_BRACKETS = 1_000_000, 50_000, 50_000
# Bytes of the variants of a line that is exported, and variants that are checked in a step.
MAX_VARIANT_BYTES, VARIANTS_PER_STEP = 250_000, 20
READ_CHUNK_BYTES = 65_536
# Unknown fields that are counted.
MAX_IGNORED_FIELDS = 250
FORMAT_NAME = "json_lines"
# Of a variant: cells without a field, by column.
KEPT_CELLS_NAME = "otherColumns"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_FIELD_NAMES = {field.name: field.graphql_name for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS)}
_VARIANT_AMOUNTS = [field.graphql_name for field in VARIANT_FIELDS if isinstance(field.value_type, Amount)]
# The names of fields in error messages, by the columns that the other parts of an import know.
_SPELLINGS = (
    {column: _FIELD_NAMES.get(name, name) for name in PRODUCT_FIELD_NAMES for column in COLUMNS_BY_FIELD[name]}
    | {column: f"variants.{_FIELD_NAMES[name]}" for name in VARIANT_FIELD_NAMES for column in COLUMNS_BY_FIELD[name]}
    | {"storefront": "variants", "handle": "handle", "option1 name": "options", "image src": "images"}
)


def _check_with(check: Any) -> Any:
    def run(text: str) -> str:
        try:
            checked: str = check(text)
        except InvalidValueError as error:
            raise ValueError(str(error)) from None
        return checked

    return run


def _build_text(check: Any) -> core_schema.CoreSchema:
    return core_schema.nullable_schema(core_schema.no_info_after_validator_function(_check_with(check), core_schema.str_schema()))


def _build_dict(members: Mapping[str, core_schema.CoreSchema], *optional: str) -> core_schema.CoreSchema:
    fields = {name: core_schema.typed_dict_field(schema, required=name not in optional) for name, schema in members.items()}
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid")


_SWATCH = core_schema.nullable_schema(
    _build_dict({"color": _build_text(validate_colour), "image": _build_text(validate_url)}, "color", "image")
)
_OPTION_VALUE = _build_dict({"value": build_text_schema(255, 1), "swatch": _SWATCH}, "swatch")
_OPTION_VALUES = core_schema.list_schema(_OPTION_VALUE, min_length=1, max_length=MAX_VARIANTS)
_OPTION = _build_dict({"name": build_text_schema(255, 1), "values": _OPTION_VALUES})
_PRODUCT_MEMBERS = [field for field in PRODUCT_FIELDS if field.name in PRODUCT_FIELD_NAMES]
_PRODUCT_VALIDATOR = SchemaValidator(build_fields_schema(_PRODUCT_MEMBERS, ()))
_VARIANT_VALIDATOR = SchemaValidator(build_fields_schema(VARIANT_FIELDS, ()))
_OPTIONS_VALIDATOR = SchemaValidator(core_schema.list_schema(_OPTION, max_length=MAX_ATTRIBUTES))
_KEPT_CELLS_VALIDATOR = SchemaValidator(
    core_schema.dict_schema(build_text_schema(MAX_KEPT_NAME, 1), build_text_schema(DEFAULT_MAX_CELL_LENGTH), max_length=250)
)
_PRODUCT_NAMES = {field.graphql_name for field in _PRODUCT_MEMBERS}
_VARIANT_NAMES = {field.graphql_name for field in VARIANT_FIELDS}


class _InvalidLineError(Exception):
    """A line that is rejected, with the path of the field at fault and the problem."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem


def is_json_lines(start: bytes) -> bool:
    """Whether a file that begins so has JSON in its first line."""
    return start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{")


def read_json_products(
    file: BinaryIO, name: str, resume_point: Mapping[str, Any] | None, max_rows: int, origin: FileOrigin
) -> Iterator[SourceItem | None]:
    """Products and errors of lines in file order, with checkpoints between them. Yields None for work without a result."""
    return _JsonLinesReader(file, name, resume_point or {}, origin).read_items(max_rows)


class _JsonLinesReader:
    def __init__(self, file: BinaryIO, name: str, resume_point: Mapping[str, Any], origin: FileOrigin) -> None:
        self._file, self._name, self._origin = file, name, origin
        self._layout = SourceLayout(name, 0, _SPELLINGS, is_exact=True)
        self._offset, self._line = resume_point.get("offset", 0), resume_point.get("line", 1) - 1
        self._ignored_counts = Counter[str](resume_point.get("ignoredColumns"))
        self._product: ProductRow | None = None

    def read_items(self, max_rows: int) -> Iterator[SourceItem | None]:
        """Read the lines from the resume point on."""
        self._file.seek(self._offset)
        while self._line < max_rows:
            start, self._line = self._offset, self._line + 1
            line = self._file.readline(MAX_LINE_BYTES + 1)
            self._offset += len(line)
            if not line:
                self._line -= 1
                break
            if len(line) > MAX_LINE_BYTES:
                yield from self._skip_line()
                yield self._reject(None, "", f"has more than {MAX_LINE_BYTES:,} bytes: continue it on further lines")
            elif line.count(b",") > MAX_LINE_COMMAS:
                yield self._reject(None, "", f"has more than {MAX_LINE_COMMAS:,} commas: continue it on further lines")
            elif line.count(b"[") + line.count(b"{") > MAX_LINE_BRACKETS:
                problem = f"has more than {MAX_LINE_BRACKETS:,} opening brackets: continue it on further lines"
                yield self._reject(None, "", problem)
            elif content := line.removeprefix(BYTE_ORDER_MARK if not start else b"").strip():
                yield from self._add_line(content, start)
            yield None
        yield from self._finish(self._offset, self._line + 1)
        if self._line >= max_rows and self._file.read(1):
            yield EarlyStop(
                f"{self._name}: has more than {max_rows:,} rows, empty ones included: import the rest as another file."
            )

    def _skip_line(self) -> Iterator[None]:
        while chunk := self._file.readline(READ_CHUNK_BYTES):
            self._offset += len(chunk)
            if chunk.endswith(b"\n"):
                return
            yield None

    def _add_line(self, content: bytes, start: int) -> Iterator[SourceItem | None]:
        handle = None
        try:
            values = _parse_object(content)
            handle = _parse_handle(values.pop("handle", None))
            variants = yield from self._parse_variants(values.pop("variants", None))
            if (product := self._product) and product.handle == handle:
                self._product = _continue_product(product, values, variants)
                return
            yield from self._finish(start, self._line)
            self._product = self._build_product(handle, values, variants)
        except _InvalidLineError as error:
            if self._product and self._product.handle == handle:
                self._product = replace(self._product, is_complete=False)
            else:
                yield from self._finish(start, self._line)
            yield self._reject(handle, error.path, error.problem)

    def _finish(self, offset: int, line: int) -> Iterator[SourceItem]:
        """Yield the current product, and a checkpoint after it."""
        if self._product:
            yield self._product
        self._product = None
        ignored = {"ignoredColumns": {**self._ignored_counts}} if self._ignored_counts else {}
        file = {"format": FORMAT_NAME, "encoding": self._origin.encoding, "delimiter": None, "entry": self._origin.entry}
        reading: dict[str, Any] = {**file, "numberFormats": {}, "decimalCommaColumns": []}
        yield Checkpoint({"offset": offset, "line": line, "rows": line - 1, **ignored, "file": reading}, offset)

    def _reject(self, handle: str | None, path: str, problem: str) -> RowError:
        # Columns are spelt by the layout, paths are as in the line.
        return replace(self._layout.build_row_error(self._line, handle, path, problem), column=sanitize_excerpt(path, 255))

    def _count_unknown(self, names: Sequence[str], prefix: str = "") -> None:
        for name in names:
            key = f"{prefix}{name}"[:100]
            if key in self._ignored_counts or len(self._ignored_counts) < MAX_IGNORED_FIELDS:
                self._ignored_counts[key] += 1

    def _parse_variants(self, entries: Any) -> Generator[None, None, list[VariantRow]]:
        """Return the variants. Yields after some of them."""
        if entries is None:
            return []
        if not isinstance(entries, list) or len(entries) > MAX_VARIANTS:
            raise _InvalidLineError("variants", f"is no list of at most {MAX_VARIANTS:,} variants")
        variants = list[VariantRow]()
        for n, entry in enumerate(entries):
            variants.append(self._parse_variant(entry, f"variants.{n}"))
            if n % VARIANTS_PER_STEP == 0:
                yield None
        return variants

    def _parse_variant(self, entry: Any, path: str) -> VariantRow:
        if not isinstance(entry, dict):
            raise _InvalidLineError(path, "is no object")
        self._count_unknown([name for name in entry if name not in {*_VARIANT_NAMES, KEPT_CELLS_NAME}], "variants.")
        known = {name: value for name, value in entry.items() if name in _VARIANT_NAMES}
        for name in _VARIANT_AMOUNTS:
            # Numbers of JSON with few digits are what they seem.
            if isinstance(known.get(name), int | float) and not isinstance(known[name], bool):
                known[name] = repr(known[name])
        kept_cells = _validate(_KEPT_CELLS_VALIDATOR, entry.get(KEPT_CELLS_NAME) or {}, f"{path}.{KEPT_CELLS_NAME}")
        values = _validate(_VARIANT_VALIDATOR, known, path)
        attributes = values.get("attributes", {})
        defaults = {"name": build_variant_name(attributes), "attributes": attributes}
        unknown: dict[str, Any] = dict.fromkeys(("price", "compare_at_price", "inventory", "sku"))
        values_and_defaults = {**unknown, **defaults, **values}
        # A weight has its unit here.
        stated_fields = frozenset({*values, *(("weight_unit",) if "weight" in values else ())})
        return VariantRow(line=self._line, **values_and_defaults, stated_fields=stated_fields, kept_cells=kept_cells)

    def _build_product(self, handle: str, entry: dict[str, Any], variants: list[VariantRow]) -> ProductRow:
        options = _validate(_OPTIONS_VALIDATOR, entry.pop("options"), "options") if entry.get("options") is not None else None
        self._count_unknown([name for name in entry if name not in _PRODUCT_NAMES])
        values = _validate(_PRODUCT_VALIDATOR, {name: value for name, value in entry.items() if name in _PRODUCT_NAMES}, "")
        stated_fields = {*values, *(("options",) if options is not None else ()), "status_cell"}
        # Both forms of a description belong together.
        if stated_fields & {"description", "description_html"}:
            stated_fields |= {"description", "description_html"}
        raw_html = values.pop("description_html", None)
        texts = dict.fromkeys(("description", "vendor", "product_type", "category", "seo_title", "seo_description"))
        _check_variants(variants)
        unknown: dict[str, Any] = {
            **texts,
            "title": "",
            "images": [],
            "image_alts": {},
            "tags": [],
            "track_inventory": any(variant.inventory is not None for variant in variants),
            "gift_card": False,
            "status": "active",
        }
        return ProductRow(
            handle=handle,
            line=self._line,
            row_count=1,
            is_complete=True,
            description_html=None,
            raw_html=raw_html,
            variants=variants,
            options=options or (),
            layout=self._layout,
            stated_fields=frozenset(stated_fields),
            **{**unknown, **values},
        )


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _InvalidLineError("", f"is not valid JSON ({str(error)[:200]}): write one object per line") from None
    if not isinstance(values, dict):
        raise _InvalidLineError("", "is no object: write one object per line")
    return values


def _parse_handle(handle: Any) -> str:
    if not isinstance(handle, str) or not handle:
        raise _InvalidLineError("handle", "is missing: give every line the handle of its product")
    if len(handle) > 4 * MAX_HANDLE_CHARACTERS or len(normalized := normalize_handle(handle)) > MAX_HANDLE_CHARACTERS:
        raise _InvalidLineError("handle", f"has more than {MAX_HANDLE_CHARACTERS} characters: shorten it")
    if not normalized:
        raise _InvalidLineError("handle", "has no letter or digit")
    return normalized


def _validate(validator: SchemaValidator, values: Any, path: str) -> Any:
    try:
        return validator.validate_python(values, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0] if error.error_count() < 100 else None
        if first is None:
            raise _InvalidLineError(path, f"{error.error_count():,} of its values are not as they should be") from None
        place = ".".join([*([path] if path else []), *map(str, first["loc"])])
        raise _InvalidLineError(place, str(first["msg"])) from None


def _continue_product(product: ProductRow, values: Mapping[str, Any], variants: Sequence[VariantRow]) -> ProductRow:
    """The product with the variants of a further line."""
    if values:
        raise _InvalidLineError(next(iter(values)), f"belongs on line {product.line}, where the product begins")
    every = [*product.variants, *variants]
    _check_variants(every)
    return replace(product, variants=every, row_count=product.row_count + 1)


def _check_variants(variants: Sequence[VariantRow]) -> None:
    if len(variants) > MAX_VARIANTS:
        raise _InvalidLineError("variants", f"a product may have {MAX_VARIANTS:,} variants: split it")
    seen = set[Any]()
    for variant in variants:
        states_options = "attributes" in variant.stated_fields
        key = fold_attributes(variant.attributes) if states_options else variant.sku
        if key in seen:
            name = variant.name if states_options else variant.sku
            raise _InvalidLineError("variants", f"has “{str(name)[:100]}” twice: change or remove one")
        seen.add(key)


# -------------------------------------------------------------------------------------------------- writer


class ProductJsonWriter:
    """Writes products as JSON Lines."""

    def render_header(self) -> str:
        """There is none."""
        return ""

    def render_product(self, product: ProductRow) -> str:
        """The lines of a product. Raises UnwritableProductError."""
        fields = {name: getattr(product, name) for name in PRODUCT_FIELD_NAMES}
        values = {"handle": product.handle, **to_json_fields(fields), "options": product.options}
        variants = [
            to_json_fields({name: getattr(variant, name) for name in VARIANT_FIELD_NAMES})
            | ({KEPT_CELLS_NAME: variant.kept_cells} if variant.kept_cells else {})
            for variant in product.variants
        ]
        first, *others = _split_variants(variants)
        lines = [orjson.dumps({**values, "variants": first})]
        lines += [orjson.dumps({"handle": product.handle, "variants": part}) for part in others]
        if any(len(line) >= MAX_LINE_BYTES for line in lines):
            raise UnwritableProductError("description: has more text than a line of a file may have")
        return "".join(f"{line.decode()}\n" for line in lines)


def _split_variants(variants: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    parts: list[list[Mapping[str, Any]]] = [[]]
    size = 0
    for variant in variants:
        size += len(orjson.dumps(variant))
        if parts[-1] and size > MAX_VARIANT_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(variant)
    return parts
