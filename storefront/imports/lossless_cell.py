"""What Shopify's columns cannot say of a product of ours: a cell of JSON beside them, in files that we write.

It is empty for most products. It holds the fields that would otherwise come back as something else: tags with commas, a name of
a variant that is not its options, a variant that is hidden, more options than three.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

# In the header of a file where cells that a spreadsheet would take for formulas are quoted, and of one where they are not.
QUOTED_COLUMN, UNQUOTED_COLUMN = "Storefront", "Storefront (formulas as they are)"
# Signs that begin a formula in one spreadsheet or another, and the one that says that what follows is text.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
APOSTROPHE = "'"

MAX_INT32 = 2_147_483_647
# Of one cell that are looked at.
MAX_LISTED_ERRORS = 100


def quote_formula(cell: str) -> str:
    """The cell as text to any spreadsheet. What begins with an apostrophe gets one more, so that `unquoted` is exact."""
    return APOSTROPHE + cell if cell.startswith((*FORMULA_PREFIXES, APOSTROPHE)) else cell


def unquote_formula(cell: str) -> str:
    """What `quoted` was given."""
    return cell.removeprefix(APOSTROPHE)


def _reject_nul(text: str) -> str:
    # Postgres keeps no NUL.
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
        """Those that are given, as rows have them."""
        values = self.model_dump(exclude_unset=True)
        return {name: Decimal(value) if name in _AMOUNT_FIELDS and value else value for name, value in values.items()}


_AMOUNT_FIELDS = frozenset({"price", "compare_at_price"})


class LosslessVariant(_CellModel):
    """Fields of the variant on the row."""

    name: Annotated[Text, StringConstraints(min_length=1, max_length=1_024)] = ""
    price: Amount = "0.00"
    compare_at_price: Amount | None = None
    attributes: Annotated[dict[ShortText, ShortText], Field(max_length=10)] = {}
    inventory: Count | None = None
    sku: ShortText | None = None
    is_available: bool = True


class LosslessProduct(_CellModel):
    """Fields of the product whose first row it is."""

    title: Annotated[Text, StringConstraints(min_length=1, max_length=255)] = ""
    description: LongText | None = None
    price: Amount = "0.00"
    compare_at_price: Amount | None = None
    images: Annotated[list[Url], Field(max_length=250)] = []
    category: ShortText | None = None
    tags: Annotated[list[ShortText], Field(max_length=250)] = []
    # Where it is not tracked it may be below zero.
    inventory: Annotated[int, Field(ge=-MAX_INT32, le=MAX_INT32)] | None = None
    track_inventory: bool = True
    seo_title: ShortText | None = None
    seo_description: LongText | None = None


class LosslessCell(_CellModel):
    """The cell: what it says of the product, and of the row's variant. A variant that it speaks of is one, options or not."""

    product: LosslessProduct | None = None
    variant: LosslessVariant | None = None


def parse_cell(cell: str) -> LosslessCell:
    """The cell; raises ValueError with what is wrong."""
    try:
        return LosslessCell.model_validate_json(cell)
    except ValidationError as error:
        # To list many thousands of faults takes longer than to find them.
        if (count := error.error_count()) > MAX_LISTED_ERRORS:
            raise ValueError(f"JSON: {count:,} of its values are not as they should be") from None
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None


def render_cell(product: Mapping[str, Any], variant: Mapping[str, Any] | None) -> str:
    """The cell for these fields; none for none."""
    content = ({"product": _to_json_fields(product)} if product else {}) | (
        {"variant": _to_json_fields(variant)} if variant is not None else {}
    )
    return orjson.dumps(content).decode() if content else ""


def _to_json_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {to_camel(name): str(value) if isinstance(value, Decimal) else value for name, value in fields.items()}
