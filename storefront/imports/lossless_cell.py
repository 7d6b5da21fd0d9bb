"""The lossless cell: a column of JSON in exported files, for values that Shopify's columns cannot represent (round trip).

It is empty for most products. It holds the fields that an import would otherwise read as something else: tags with commas, a
variant name that differs from its options, a hidden variant, more than three options.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

# The name of the column in files whose formulas are quoted (against CSV injection), and in files where they are not.
QUOTED_COLUMN, UNQUOTED_COLUMN = "Storefront", "Storefront (formulas as they are)"
# Prefixes of formulas in common spreadsheets; an apostrophe before a cell marks it as text.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
APOSTROPHE = "'"

MAX_INT32 = 2_147_483_647
# Validation errors of one cell beyond which they are only counted.
MAX_LISTED_ERRORS = 100


def quote_formula(cell: str) -> str:
    """Quote a cell that a spreadsheet would read as a formula. Cells with a leading apostrophe get one more: it is reversible."""
    return APOSTROPHE + cell if cell.startswith((*FORMULA_PREFIXES, APOSTROPHE)) else cell


def unquote_formula(cell: str) -> str:
    """The inverse of `quote_formula`."""
    return cell.removeprefix(APOSTROPHE)


def _reject_nul(text: str) -> str:
    # Postgres cannot store NUL.
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


Text = Annotated[str, AfterValidator(_reject_nul)]
ShortText = Annotated[Text, StringConstraints(max_length=255)]
LongText = Annotated[Text, StringConstraints(max_length=65_536)]
Url = Annotated[Text, StringConstraints(max_length=2_048)]
Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,8}\.[0-9]{2}$")]
Count = Annotated[int, Field(ge=0, le=MAX_INT32)]


class _CellModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)

    def to_row_fields(self) -> dict[str, Any]:
        """The fields that the cell sets, with the types of rows."""
        values = self.model_dump(exclude_unset=True)
        return {name: Decimal(value) if name in _AMOUNT_FIELDS and value else value for name, value in values.items()}


_AMOUNT_FIELDS = frozenset({"price", "compare_at_price"})


class LosslessVariant(_CellModel):
    """Fields of the variant of this row."""

    name: Annotated[Text, StringConstraints(min_length=1, max_length=1_024)] = ""
    price: Amount = "0.00"
    compare_at_price: Amount | None = None
    attributes: Annotated[dict[ShortText, ShortText], Field(max_length=10)] = {}
    inventory: Count | None = None
    sku: ShortText | None = None
    is_available: bool = True


class LosslessProduct(_CellModel):
    """Fields of the product; only on its first row."""

    title: Annotated[Text, StringConstraints(min_length=1, max_length=255)] = ""
    description: LongText | None = None
    price: Amount = "0.00"
    compare_at_price: Amount | None = None
    images: Annotated[list[Url], Field(max_length=250)] = []
    category: ShortText | None = None
    tags: Annotated[list[ShortText], Field(max_length=250)] = []
    # Untracked inventory may be negative.
    inventory: Annotated[int, Field(ge=-MAX_INT32, le=MAX_INT32)] | None = None
    track_inventory: bool = True
    seo_title: ShortText | None = None
    seo_description: LongText | None = None


class LosslessCell(_CellModel):
    """The parsed cell. If `variant` is set the row has a variant, even without options."""

    product: LosslessProduct | None = None
    variant: LosslessVariant | None = None


def parse_cell(cell: str) -> LosslessCell:
    """Parse a cell. Raises ValueError with the first problem."""
    try:
        return LosslessCell.model_validate_json(cell)
    except ValidationError as error:
        # To format many thousands of errors takes longer than validation.
        if (count := error.error_count()) > MAX_LISTED_ERRORS:
            raise ValueError(f"JSON: {count:,} of its values are not as they should be") from None
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None


def render_cell(product: Mapping[str, Any], variant: Mapping[str, Any] | None) -> str:
    """Render the cell; empty if there are no fields."""
    content = ({"product": _to_json_fields(product)} if product else {}) | (
        {"variant": _to_json_fields(variant)} if variant is not None else {}
    )
    return orjson.dumps(content).decode() if content else ""


def _to_json_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {to_camel(name): str(value) if isinstance(value, Decimal) else value for name, value in fields.items()}
