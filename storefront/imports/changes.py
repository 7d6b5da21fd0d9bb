"""The changes that an import makes to a product, field by field, for dry runs and reports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.imports.csv_columns import PRODUCT_FIELD_NAMES
from storefront.models.rows import ProductRow as StoredProduct
from storefront.models.rows import VariantRow as StoredVariant

CREATE_PRODUCT, UPDATE_PRODUCT = "create_product", "update_product"
CREATE_VARIANT, UPDATE_VARIANT, DELETE_VARIANT = "create_variant", "update_variant", "delete_variant"
CHANGE_KINDS = (CREATE_PRODUCT, UPDATE_PRODUCT, CREATE_VARIANT, UPDATE_VARIANT, DELETE_VARIANT)
# Longer values are truncated.
MAX_VALUE_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `variant`: its name. `field`: as in GraphQL, with its values as text; None if a whole row comes or goes."""

    kind: str
    variant: str | None = None
    field: str | None = None
    old: str | None = None
    new: str | None = None


@dataclass(frozen=True, slots=True)
class ProductChange:
    """The changes of a product, which begins on `line` of the source."""

    line: int
    handle: str
    changes: Sequence[Change]


def describe_product(
    new: Mapping[str, Any],
    old: StoredProduct | None,
    created: Sequence[Mapping[str, Any]],
    updated: Sequence[tuple[Mapping[str, Any], StoredVariant]],
    removed: Sequence[StoredVariant],
) -> list[Change]:
    """The changes of a product and its variants. `new` and `created` have the new columns, `updated` also the stored row."""
    changes = [*_describe_fields(UPDATE_PRODUCT, None, new, old, PRODUCT_FIELD_NAMES)] if old else []
    if old is None:
        changes.append(Change(CREATE_PRODUCT, new=_render_value(new["title"])))
    changes += [Change(CREATE_VARIANT, row["name"], new=_render_value(row["price"])) for row in created]
    for row, stored in updated:
        changes += _describe_fields(UPDATE_VARIANT, stored.name, row, stored, row)
    changes += [Change(DELETE_VARIANT, stored.name, old=_render_value(stored.price)) for stored in removed]
    return changes


def _describe_fields(
    kind: str,
    variant: str | None,
    new: Mapping[str, Any],
    old: StoredProduct | StoredVariant,
    names: Sequence[str] | Mapping[str, Any],
) -> Iterator[Change]:
    for name in names:
        if (before := getattr(old, name)) != new[name]:
            yield Change(kind, variant, to_camel_case(name), _render_value(before), _render_value(new[name]))


def _render_value(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            text = str(value).lower()
        case list():
            text = ", ".join(value)
        case {"value": amount, "unit": unit}:
            text = f"{amount} {unit}"
        case dict():
            text = ", ".join(f"{name}: {part}" for name, part in value.items())
        case _:
            text = str(value)
    return truncate_value(text)


def truncate_value(text: str | None) -> str | None:
    """The text with at most MAX_VALUE_CHARACTERS."""
    return text if text is None or len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"
