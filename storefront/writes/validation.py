"""What values may be, by kind. A slice says which of its fields is of which kind; all faults of an input are told at once."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from tinycss2.color4 import parse_color

from storefront.core.ids import parse_id
from storefront.writes.custom_css import MAX_CHARACTERS, UnsafeCSS, validate_stylesheet
from storefront.writes.transaction import Failure, Refused, invalid

Rule = Callable[[Any], Any]
Rules = Mapping[str, Rule]
# The way to a part of a value, and what is wrong with it.
Part = tuple[tuple[str, ...], str]

CURRENCIES = frozenset(
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP CRC "
    "CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR "
    "ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK "
    "MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE "
    "SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF "
    "XPF YER ZAR ZMW ZWG".split()
)
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Names of fonts, quoted or not, separated by commas.
_FONT = r"""(?:"[\w ,'-]+"|'[\w ,"-]+'|[\w-][\w -]*)"""
_FONTS = re.compile(rf"{_FONT}(?: *, *{_FONT})*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Unfit(Exception):
    """A value that breaks its rule, perhaps in several parts: each problem with the way to the part that it is about."""

    def __init__(self, problem: str = "", *at: str, parts: Sequence[Part] = ()) -> None:
        super().__init__(problem)
        self.parts = parts or [(at, problem)]


def checked(rules: Rules, values: Mapping[str, Any], path: Sequence[str] = ()) -> tuple[dict[str, Any], list[Failure]]:
    """The values as they will be stored, and every fault with its path."""
    clean: dict[str, Any] = {}
    faults: list[Failure] = []
    for name, value in values.items():
        try:
            clean[name] = rules[name](value)
        except Unfit as unfit:
            faults += [invalid([*path, name, *at], problem) for at, problem in unfit.parts]
    return clean, faults


def require(rules: Rules, values: Mapping[str, Any], path: Sequence[str] = ()) -> dict[str, Any]:
    """The values as they will be stored; refuses with every fault at once."""
    clean, failures = checked(rules, values, path)
    if failures:
        raise Refused(*failures)
    return clean


# --------------------------------------------------------------------------------------------------- kinds


def text(most: int, *, least: int = 1) -> Rule:
    """Text without control characters, trimmed."""

    def rule(value: str) -> str:
        if _CONTROL.search(value):
            raise Unfit("must not contain control characters.")
        trimmed = value.strip()
        if not least <= len(trimmed) <= most:
            raise Unfit(f"must have {least} to {most:,} characters, not {len(trimmed):,}.")
        return trimmed

    return rule


def optional(rule: Rule) -> Rule:
    """The same, or nothing."""
    return lambda value: None if value is None else rule(value)


def given(rule: Rule) -> Rule:
    """The same, where leaving the field out is right but null is not."""

    def required(value: Any) -> Any:
        if value is None:
            raise Unfit("must not be null. Leave it out to keep what it is.")
        return rule(value)

    return required


def money(value: Decimal) -> str:
    """An amount from 0 to 99,999,999.99 with at most two decimals, as rows have it."""
    if not 0 <= value < 100_000_000:
        raise Unfit(f"must be between 0 and 99999999.99, not {value}.")
    if value != round(value, 2):
        raise Unfit(f"must have at most two decimals, not {value}.")
    # Zero may come with a sign, which rows do not have.
    return f"{abs(value):.2f}"


def whole(least: int, most: int) -> Rule:
    """A whole number."""

    def rule(value: int) -> int:
        if not least <= value <= most:
            raise Unfit(f"must be between {least:,} and {most:,}, not {value:,}.")
        return value

    return rule


def slug(value: str) -> str:
    """The name of something in URLs."""
    if not 1 <= len(value) <= 100 or not _SLUG.fullmatch(value):
        raise Unfit('must have 1 to 100 characters: lower-case letters, digits and single hyphens between them, as "my-store".')
    return value


def url(value: str) -> str:
    """An absolute web address."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good or len(value) > 2_048 or _CONTROL.search(value) or re.search(r"[\s<>\"\\]", value):
        raise Unfit('must be a web address such as "https://example.com/mug.jpg", at most 2,048 characters long.')
    return value


def host(value: str) -> str:
    """A host name."""
    if len(value) > 253 or not re.fullmatch(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", value):
        raise Unfit('must be a host name such as "my-shop.myshopify.com".')
    return value


def matching(pattern: str, example: str) -> Rule:
    """Text of a known form."""

    def rule(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise Unfit(f'must look like "{example}".')
        return value

    return rule


def currency(value: str) -> str:
    """An ISO 4217 code that is in use."""
    if value not in CURRENCIES:
        raise Unfit(f'must be the ISO 4217 code of a currency such as "EUR", not {value[:20]!r}.')
    return value


def colour(value: str) -> str:
    """A CSS colour."""
    # A comment would be stored with the colour, whatever it says. The parser forgives brackets that stay open; a page would not.
    is_whole = len(value) <= 100 and not re.search(r"[<\x00\ufeff]|/\*", value) and value.count("(") == value.count(")")
    if not is_whole or not _is_colour(value):
        raise Unfit(f'must be a CSS colour such as "#1a2b3c" or "teal", not {value[:20]!r}.')
    return value.strip()


def _is_colour(value: str) -> bool:
    try:
        return parse_color(value) is not None
    except (ValueError, IndexError):
        # What the parser makes of `color()`.
        return False


def font_family(value: str) -> str:
    """Fonts as CSS names them, with nothing that could end the declaration they stand in."""
    trimmed = value.strip(" ")
    if len(trimmed) > 100 or not _FONTS.fullmatch(trimmed):
        raise Unfit(
            "must name fonts such as \"Inter, 'Open Sans', sans-serif\", at most 100 characters long: letters, digits, spaces, "
            "- and _, separated by commas; quotes come in pairs."
        )
    return trimmed


def css(value: str) -> str:
    """A style sheet that can stand in a <style> element and loads nothing from elsewhere."""
    sheet = text(MAX_CHARACTERS, least=0)(value)
    try:
        validate_stylesheet(sheet)
    except UnsafeCSS as error:
        raise Unfit(str(error)) from error
    return str(sheet)


def listed(rule: Rule, most: int, *, distinct: bool = True) -> Rule:
    """A list of values of one kind, repeats left out."""

    def rule_of_list(values: Sequence[Any]) -> list[Any]:
        if len(values) > most:
            raise Unfit(f"must have at most {most:,} entries, not {len(values):,}.")
        clean: list[Any] = []
        parts: list[Part] = []
        for n, value in enumerate(values):
            try:
                clean.append(rule(value))
            except Unfit as unfit:
                parts += [((str(n), *at), problem) for at, problem in unfit.parts]
        if parts:
            raise Unfit(parts=parts)
        return list(dict.fromkeys(clean)) if distinct else clean

    return rule_of_list


def record(rules: Rules) -> Rule:
    """An object with fields of their own kinds."""

    def rule(value: Mapping[str, Any]) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        parts: list[Part] = []
        for name, part in value.items():
            try:
                clean[name] = rules[name](part)
            except Unfit as unfit:
                parts += [((name, *at), problem) for at, problem in unfit.parts]
        if parts:
            raise Unfit(parts=parts)
        return clean

    return rule


def key(value: str) -> str:
    """An id of ours."""
    found = parse_id(value)
    if found is None:
        raise Unfit(f"{value[:40]!r} is not an id. Ids look like 018f0000-0000-7000-8000-000000000000.")
    return found


def as_is(value: Any) -> Any:
    """What the schema has checked already."""
    return value
