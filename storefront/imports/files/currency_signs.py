"""Signs and codes of currencies in the amounts of a file, as spreadsheets write them: “12,50 €”, “USD 9.99”, “12,-”."""

import re

from storefront.core.currencies import FRACTION_DIGITS

# No amount is longer. Longer cells are rejected for their length.
_MAX_CELL_CHARACTERS = 64
_DIGITS = frozenset("0123456789")
# A dash instead of decimals: 12,- and 12.–
_AMOUNT = re.compile(
    r"(?P<prefix>[^0-9]*)(?P<number>[0-9](?:[0-9.,'\u2019 \u00a0\u202f]*[0-9])?)"
    r"(?:(?P<separator>[.,])[-\u2010-\u2015\u2212]{1,2})?(?P<suffix>[^0-9]*)"
)
# Marks of the direction of text, which spreadsheets write beside signs in Arabic and Hebrew.
_DIRECTION_MARKS = re.compile("[\u200e\u200f\u061c]")
# The currencies that are written with each sign, in lower case and without a point at its end. The first one is the best known.
_CURRENCIES_BY_SIGN = {
    sign: codes.split()
    for sign, codes in {
        "$": "USD CAD AUD NZD HKD SGD MXN ARS BBD BMD BND BSD BZD CLP COP CUP CVE DOP FJD GYD JMD KYD LRD NAD NIO SBD SRD TTD"
        " TWD UYU XCD",
        "us$": "USD",
        "c$": "CAD NIO",
        "ca$": "CAD",
        "a$": "AUD",
        "au$": "AUD",
        "nz$": "NZD",
        "hk$": "HKD",
        "s$": "SGD",
        "mx$": "MXN",
        "mex$": "MXN",
        "nt$": "TWD",
        "rd$": "DOP",
        "r$": "BRL",
        "€": "EUR",
        "£": "GBP EGP FKP GIP LBP SHP SSP SYP",
        "e£": "EGP",
        "¥": "JPY CNY",
        "\uffe5": "JPY CNY",
        "円": "JPY",
        "元": "CNY TWD",
        "₩": "KRW KPW",
        "₹": "INR",
        "₨": "INR PKR LKR NPR MUR SCR",
        "rs": "INR PKR LKR NPR MUR SCR",
        "৳": "BDT",
        "₫": "VND",
        "đ": "VND",
        "฿": "THB",
        "₱": "PHP",
        "rp": "IDR",
        "rm": "MYR",
        "៛": "KHR",
        "₭": "LAK",
        "₮": "MNT",
        "₸": "KZT",
        "₼": "AZN",
        "₾": "GEL",
        "֏": "AMD",
        "₺": "TRY",
        "tl": "TRY",
        "₽": "RUB",
        "руб": "RUB BYN",
        "₴": "UAH",
        "грн": "UAH",
        "лв": "BGN",
        "kr": "SEK NOK DKK ISK",
        "zł": "PLN",
        "kč": "CZK",
        "ft": "HUF",
        "lei": "RON MDL",
        "fr": "CHF",
        "sfr": "CHF",
        "₪": "ILS",
        "د.إ": "AED",
        "ر.س": "SAR",
        "﷼": "SAR IRR OMR QAR YER",
        "r": "ZAR",
        "₦": "NGN",
        "₵": "GHS",
        "gh₵": "GHS",
        "ksh": "KES",
        "tsh": "TZS",
        "ush": "UGX",
        "fcfa": "XOF XAF",
        "s/": "PEN",
        "₡": "CRC",
        "₲": "PYG",
        "q": "GTQ",
    }.items()
}


class OtherCurrencyError(ValueError):
    """An amount in another currency than that of the store. The message names both."""


def remove_currency(cell: str, currency: str | None) -> str:
    """An amount without the sign or code of `currency`, that of the store, and with zeros instead of a dash: 12,- is 12,00.

    Any other cell stays, and so does each with a sign if the currency is not known. Raises OtherCurrencyError for the sign or
    code of another currency.
    """
    if not cell or (cell[0] in _DIGITS and cell[-1] in _DIGITS) or len(cell) > _MAX_CELL_CHARACTERS:
        return cell
    if not (match := _AMOUNT.fullmatch(_DIRECTION_MARKS.sub("", cell))):
        return cell
    signs = [*match["prefix"].split(), *match["suffix"].split()]
    codes_by_sign = {sign: _list_currencies(sign, currency) for sign in signs}
    if signs and (currency is None or not all(codes_by_sign.values())):
        return cell
    # Those of one currency first: “$9.99 USD” is in USD.
    for sign, codes in sorted(codes_by_sign.items(), key=lambda entry: len(entry[1])):
        if currency not in codes:
            shown = codes[0] if len(codes) == 1 else f"{codes[0]} or another currency of the sign “{sign}”"
            raise OtherCurrencyError(f"“{cell}” is in {shown}, and the prices of the store are in {currency}: convert it")
    return f"{match['number']}{match['separator']}00" if match["separator"] else match["number"]


def _list_currencies(sign: str, currency: str | None) -> list[str]:
    """The codes of the currencies that are written so; none if that is no sign. That of the store may have been withdrawn."""
    code = sign.upper()
    return [code] if code == currency or code in FRACTION_DIGITS else _CURRENCIES_BY_SIGN.get(sign.lower().removesuffix("."), [])
