"""Amounts as text with the digits of their store's currency, which commands keep from changing until they commit."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.casing import to_camel_case
from storefront.core.currencies import ExcessDigitsError, quantize_amount
from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.models import VARIANT_FIELDS
from storefront.models.writable_fields import Amount
from storefront.writes.field_errors import FieldError, InvalidInputReason, MutationRejected, make_invalid_input_error
from storefront.writes.validation import MAX_PROBLEMS

AMOUNT_FIELDS = tuple(to_camel_case(field.name) for field in VARIANT_FIELDS if isinstance(field.value_type, Amount))

Values = Mapping[str, Any]


def has_amounts(inputs: Iterable[Values]) -> bool:
    """Whether one of these inputs may have amounts, so that the currency must not change."""
    return any("variants" in values or any(name in values for name in AMOUNT_FIELDS) for values in inputs)


def print_amounts(values: Values, currency: str, path: Sequence[str] = ()) -> tuple[dict[str, Any], list[FieldError]]:
    """The fields of a valid input with amounts as text, also those of `variants`, and the errors of amounts with more digits."""
    printed, errors = dict(values), list[FieldError]()
    for name in AMOUNT_FIELDS:
        if (amount := values.get(name)) is not None:
            try:
                printed[name] = str(quantize_amount(amount, currency))
            except ExcessDigitsError as error:
                errors.append(make_invalid_input_error([*path, name], str(error), InvalidInputReason.MALFORMED))
    if rows := values.get("variants"):
        results = [print_amounts(row, currency, [*path, "variants", str(n)]) for n, row in enumerate(rows)]
        printed["variants"] = [row for row, _ in results]
        errors += [error for _, row_errors in results for error in row_errors]
    return printed, errors[:MAX_PROBLEMS]


def require_printed_amounts(values: Values, currency: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """As `print_amounts`. Raises MutationRejected with all errors, after those that the input has otherwise."""
    printed, amount_errors = print_amounts(values, currency)
    if errors or amount_errors:
        raise MutationRejected(*errors, *amount_errors)
    return printed


async def load_currency(connection: Connection, config_id: str, *, locks: bool = False) -> str:
    """The currency of a store. `locks`: it does not change until the transaction ends. Lock the products before, if at all."""
    [store] = await connection.fetch(_select_currency(locks), {"config_id": config_id})
    return store.currency


@cache
def _select_currency(locks: bool) -> Statement:
    lock = " FOR KEY SHARE" if locks else ""
    return compile_statement(text(f"SELECT currency FROM configs WHERE id = CAST(:config_id AS uuid){lock}"))
