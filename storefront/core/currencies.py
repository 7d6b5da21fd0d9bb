"""Currencies of ISO 4217, and amounts with as many digits after the point as their currency has."""

from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache

from iso4217 import Currency

# The digits after the point, by code. Codes without them are no currencies to pay with: gold, tests, "no currency".
FRACTION_DIGITS = {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}
# Of a currency that has been withdrawn since a store chose it.
DEFAULT_FRACTION_DIGITS = 2
MAX_FRACTION_DIGITS = max(FRACTION_DIGITS.values())
# Digits before the point, in every currency: enough for IDR and VND.
MAX_INTEGER_DIGITS = 15
# The first amount that is too large.
AMOUNT_LIMIT = 10**MAX_INTEGER_DIGITS

# Exact for every amount that passes the limits of the scalar Decimal.
_CONTEXT = Context(prec=40, rounding=ROUND_HALF_UP)


class ExcessDigitsError(ValueError):
    """An amount with more digits after the point than its currency has. The message is for clients."""


def get_fraction_digits(currency: str) -> int:
    """The digits after the point of amounts in a currency, by its code."""
    return FRACTION_DIGITS.get(currency, DEFAULT_FRACTION_DIGITS)


@cache
def list_currencies_with_digits(digits: int) -> list[str]:
    """The codes of the currencies with so many digits after the point."""
    return [currency for currency, fraction_digits in FRACTION_DIGITS.items() if fraction_digits == digits]


def round_amount(amount: Decimal, currency: str) -> Decimal:
    """The amount rounded to the digits of its currency."""
    return amount.quantize(_get_smallest_amount(currency), context=_CONTEXT)


@cache
def _get_smallest_amount(currency: str) -> Decimal:
    return Decimal(1).scaleb(-get_fraction_digits(currency))


def quantize_amount(amount: Decimal, currency: str) -> Decimal:
    """The amount, 0 or more, with exactly the digits of its currency. Raises ExcessDigitsError if it has more."""
    digits, quantized = get_fraction_digits(currency), round_amount(amount, currency)
    if quantized != amount:
        rule = f"at most {digits} decimals, as {currency} has" if digits else f"no decimals, as {currency} has none"
        raise ExcessDigitsError(f"must have {rule}, not {amount:f}.")
    # Negative zero is zero.
    return quantized or abs(quantized)
