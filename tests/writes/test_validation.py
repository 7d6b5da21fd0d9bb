"""Validation rules of input values."""

import re
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storefront.core.currencies import ExcessDigitsError, quantize_amount
from storefront.writes import validation
from storefront.writes.field_errors import MutationRejected, UserErrorCode
from storefront.writes.product_validation import PRODUCT_RULES, VARIANT_RULES, find_contradictions
from storefront.writes.validation import InvalidValueError, Rule


def fits(rule: Rule, value: object) -> bool:
    try:
        rule(value)
    except InvalidValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- css

GOOD_SHEETS = (
    "",
    "a { color: red }",
    "@media (min-width: 600px) { a:hover > b { color: rgb(1 2 3 / 50%) } }",
    ".card { &:hover { color: teal } .title { font-weight: bold } }",
    "@keyframes x { from { opacity: 0 } to { opacity: 1 } }",
    "a { background: url(data:image/png;base64,AAAA) }",
    'a { background: url("data:image/svg+xml;utf8,x") }',
    "a { background: image-set(url(data:image/png;base64,AAAA) 1x, linear-gradient(red, blue) 2x) }",
    "a::after { content: '\\2014' }",
    "a { width: calc(100% - var(--gap)) }",
    "/* url(https://example.com) is only talked about */ a { color: red }",
    ".größe, .日本 { content: '×' } /* 2 × 3 – and more */",
    "a:not(.b):nth-child(2n + 1) { transform: translate(1px, 2px) rotate(4deg); filter: drop-shadow(0 0 2px rgb(0 0 0 / 0.5)) }",
    "@media screen and(min-width: 600px) { .md\\:flex { grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)) } }",
    "@supports (display: grid) and (not (display: inline-grid)) { a { width: min(100%, 40rem) } }",
    "@layer base { @container (width > 400px) { a { color: light-dark(#000, #fff) } } }",
    "@font-face { font-family: Own; src: local('Helvetica Neue') }",
    "a { background: image-set(url(data:image/png,x) type('image/png') 1x) }",
)
BAD_SHEETS = (
    "@import 'https://evil.example/x.css';",
    '@import url("https://evil.example/x.css");',
    "@\\69mport 'https://evil.example/x.css';",
    "@IMPORT 'x.css';",
    "@charset 'utf-8'; a { color: red }",
    "@namespace svg url(http://www.w3.org/2000/svg);",
    "a { background: url(https://evil.example/x.png) }",
    "a { background: url('https://evil.example/x.png') }",
    "a { background: URL( https://evil.example/x.png ) }",
    "a { background: \\75rl(https://evil.example/x.png) }",
    "a { background: \\75 rl('https://evil.example/x.png') }",
    "a { background: u\\72l(//evil.example/x.png) }",
    "a { background: url(/here.png) }",
    "a { background: url(data:text/html,x) }",
    "@media print { a { b { background: url(//evil.example) } } }",
    "@font-face { font-family: x; src: url(https://evil.example/x.woff) }",
    "@supports (background: url(//evil.example)) { a { color: red } }",
    "a { background: image-set('https://evil.example/x.png' 1x) }",
    "a { background: -webkit-image-set('https://evil.example/x.png' 1x) }",
    "a { --u: 'https://evil.example/x.png'; background: image-set(var(--u) 1x) }",
    "a { background: -webkit-image-set(var(--u) 1x) }",
    "a { background: src('https://evil.example/x.png') }",
    "a { --u: 'https://evil.example'; background: src(var(--u)) }",
    "a { width: expression(alert(1)) }",
    "a { width: EXPRESSION(alert(1)) }",
    "a { background: image-set(calc(1) url(//evil.example) 1x) }",
    "a { color: red } </style><script>alert(1)</script>",
    "a::after { content: '</style' }",
    "/* </style> */",
    "<!-- a { color: red } -->",
    "a { color: red } }",
    "a { color: ) }",
    "a { background: url(a b) }",
    "a { content: 'never ends\n }",
    "a { color: r\x00ed }",
    "a { background: image-set(if(else: 'https://evil.example/x.png') 1x) }",
    "a { background: if(else: image-set('https://evil.example/x.png' 1x)) }",
    "@function --f() { result: 'https://evil.example/x.png' } a { background: image-set(--f() 1x) }",
    "a { background: image-set(--f() 1x) }",
    "a { width: --f() }",
    "\ufeff@import 'https://evil.example/x.css'; a { color: red }",
    "a {} @import 'https://evil.example/x.css';",
    "a { @import 'https://evil.example/x.css'; }",
    "@unheard-of x { a { color: red } }",
    "a { color: unheard-of(red) }",
    "a { background: cross-fade(url(//evil.example/x.png), red) }",
    "a { color: red",
    "a { color: rgb(1 2 3 }",
    "a { b: [ }",
    "a { color: red } /* never ends",
    "a { b: 'never ends",
    "a { color: red } \\",
    "a { color: red } -->",
    "a," * 20_001 + "a { color: red }",
    "- " * 20_001,
    "a{b:" + "-1" * 21_000 + "}",
    "a{b:1\u00d7url(http://evil.example/x)}",
    "a{b:1\u3000url(//evil.example)}",
    "@font-face{font-family:x;src:1\u00a0url(//evil.example),local(a)}",
    "x" * 50_001,
    "a{width:" + "9" * 4_301 + "px}",
)


@pytest.mark.parametrize("sheet", GOOD_SHEETS)
def test_safe_stylesheet_is_accepted(sheet: str) -> None:
    assert validation.validate_css(sheet) == sheet


@pytest.mark.parametrize("sheet", BAD_SHEETS)
def test_loading_or_escaping_stylesheet_is_rejected(sheet: str) -> None:
    assert not fits(validation.validate_css, sheet)


@pytest.mark.parametrize("bracket", ["(", "[", "{", "a("])
def test_deep_nesting_is_accepted(bracket: str) -> None:
    closing = {"(": ")", "[": "]", "{": "}", "a(": ")"}[bracket]
    validation.validate_css("a { b: " + bracket.replace("a", "min") * 4_000 + closing * 4_000 + " }")


_PIECES = st.sampled_from(
    [
        *"(){}[];:'\"\\/*@<!-, \n",
        "url(",
        "\\75rl(",
        "image-set(",
        "@import",
        "@media",
        "</style",
        "data:image/",
        "var(--x)",
        "a",
        "x.png",
    ]
)


@given(st.lists(_PIECES, max_size=40).map("".join) | st.text(max_size=100))
def test_any_stylesheet_is_accepted_or_rejected(sheet: str) -> None:
    if fits(validation.validate_css, sheet):
        # What stands at the very beginning is part of nothing else; a name goes on behind letters, hyphens and backslashes.
        assert "<" not in sheet and not re.match(r"[ \t\r\n\f]*@import(?![\w\\-]|[^\x00-\x7f])", sheet, re.IGNORECASE)


# ------------------------------------------------------------------------------------------- short kinds

ADDRESSES: tuple[tuple[str, bool], ...] = (
    ("https://example.com/mug.jpg", True),
    ("http://example.com:8080/a?b=c#d", True),
    ("HTTPS://EXAMPLE.COM/", True),
    ("https://bücher.example/ä.png", True),
    ("javascript:alert(1)", False),
    ("data:image/png;base64,AAAA", False),
    ("//example.com/x", False),
    ("/x.png", False),
    ("https://", False),
    ("https:///x", False),
    ("https://example.com:99999/", False),
    ("https://[::1", False),
    ("https://example.com/a b", False),
    ('https://example.com/"><script>', False),
    ("https://example.com/\x00", False),
    ("java\nscript:alert(1)", False),
    ("https://example.com/\n", False),
    ("https://example.com/" + "a" * 2_048, False),
    ("", False),
)
SLUGS: tuple[tuple[str, bool], ...] = (
    ("a", True), ("my-store-2", True), ("a" * 100, True), ("a\n", True), ("-A--b_", True), ("ä", True), ("١", True),
    ("e\u0301" * 100, True), ("", False), ("-", False), ("🎉", False), ("\u0301", False), ("a" * 101, False),
    ("ﷺ" * 6, False), ("a" * 100_000, False),
)  # fmt: skip
COLOURS: tuple[tuple[str, bool], ...] = (
    ("#1a2b3c", True), ("#fff", True), ("teal", True), ("rgb(1, 2, 3)", True), ("hsl(120deg 50% 50%)", True), (" red ", True),
    ("", False), ("#12", False), ("nothing", False), ("red; background: url(x)", False), ("red</style>", False),
    ("rgb(1, 2, 3", False), ("rgb(1, 2, 3))", False), ("\ufeffred", False),
    ("color()", False), ("color( )", False), ("color-mix()", False), ("rgb()", False), ("lab()", False),
    ("red/*</style><script>*/", False), ("red/*\x00*/", False), ("#fff" + " " * 100, False), ("url(https://evil.example)", False),
)  # fmt: skip
CURRENCIES: tuple[tuple[str, bool], ...] = (
    ("USD", True), ("EUR", True), ("JPY", True), ("KWD", True), ("CLF", True), ("XAF", True),
    ("usd", False), ("XXX", False), ("XAU", False), ("XTS", False), ("DEM", False), ("", False), ("EUR\n", False), ("€", False),
)  # fmt: skip
HOSTS: tuple[tuple[str, bool], ...] = (
    ("my-shop.myshopify.com", True), ("a.co", True), ("xn--bcher-kva.example", True),
    ("localhost", False), ("my shop.com", False), ("-a.com", False), ("a-.com", False), ("a..com", False), ("1.2.3.4", False),
    ("evil.example/path", False), ("user@evil.example", False), ("evil.example:80", False), ("MY.com", False), ("a.com\n", False),
    ("a" * 64 + ".com", False), ("a." * 127 + "com", False),
)  # fmt: skip
CASES: Sequence[tuple[str, Rule, tuple[tuple[str, bool], ...]]] = (
    ("url", validation.validate_url, ADDRESSES),
    ("slug", validation.slug_rule(100), SLUGS),
    ("colour", validation.validate_colour, COLOURS),
    ("currency", validation.validate_currency, CURRENCIES),
    ("host", validation.validate_host, HOSTS),
)


@pytest.mark.parametrize(
    ("rule", "value", "good"),
    [pytest.param(rule, v, g, id=f"{name}-{v[:30]!r}") for name, rule, cases in CASES for v, g in cases],
)
def test_rule_accepts_valid_and_rejects_invalid_values(rule: Rule, value: str, good: bool) -> None:
    assert fits(rule, value) is good


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_rejected(value: str) -> None:
    for _, rule, _ in CASES:
        fits(rule, value)


# ---------------------------------------------------------------------------------------- amounts and text

_AMOUNTS = st.decimals(Decimal("-1e20"), Decimal("1e20"), allow_nan=False, allow_infinity=False)


@given(_AMOUNTS | st.decimals(0, 100, places=3) | st.decimals(0, 99_999_999, places=2))
def test_amount_is_stored_exactly_or_rejected(value: Decimal) -> None:
    if fits(validation.validate_amount, value):
        assert 0 <= value < 10**15
        for currency, digits in (("JPY", 0), ("EUR", 2), ("KWD", 3), ("CLF", 4)):
            with suppress(ExcessDigitsError):
                printed = str(quantize_amount(value, currency))
                assert Decimal(printed) == value and len(printed.partition(".")[2]) == digits


@pytest.mark.parametrize(
    ("value", "currency", "printed"),
    [
        *(("0", "EUR", "0.00"), ("-0", "EUR", "0.00"), ("-0.00", "JPY", "0"), ("5.5", "USD", "5.50"), ("5.500", "USD", "5.50")),
        *(("1000", "JPY", "1000"), ("1000.00", "JPY", "1000"), ("1.255", "KWD", "1.255"), ("1.2", "KWD", "1.200")),
        *(("150000000", "IDR", "150000000.00"), ("999999999999999", "VND", "999999999999999"), ("1", "CLF", "1.0000")),
        # Withdrawn since a store chose it.
        *(("999999999999999.99", "IDR", "999999999999999.99"), ("1", "DEM", "1.00")),
    ],
)
def test_amount_is_printed_with_digits_of_currency(value: str, currency: str, printed: str) -> None:
    assert str(quantize_amount(Decimal(value), currency)) == printed


@pytest.mark.parametrize(
    ("value", "currency", "problem"),
    [
        ("1000.5", "JPY", "must have no decimals, as JPY has none, not 1000.5."),
        ("1.999", "EUR", "must have at most 2 decimals, as EUR has, not 1.999."),
        ("999999999999999.9999", "KWD", "must have at most 3 decimals, as KWD has, not 999999999999999.9999."),
    ],
)
def test_amount_with_more_digits_than_currency_is_rejected(value: str, currency: str, problem: str) -> None:
    with pytest.raises(ExcessDigitsError, match=re.escape(problem)):
        quantize_amount(Decimal(value), currency)


@pytest.mark.parametrize("value", ["-0.01", "-0.00001", "1000000000000000", "1000000000000000.01"])
def test_amount_out_of_bounds_is_rejected(value: str) -> None:
    assert not fits(validation.validate_amount, Decimal(value))


@pytest.mark.parametrize("value", ["Inter", "Source Sans 3", "'Open Sans', \"Noto_2\", sans-serif", "ヒラギノ角ゴ", "a" * 100])
def test_css_font_families_are_accepted(value: str) -> None:
    assert validation.validate_font_family(f" {value} ") == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a" * 101,
        "'",
        "Inter, 'Open",
        "'a\"",
        "\"a'",
        "''",
        ",",
        "a,",
        "a,,b",
        "a; color: red",
        "a}",
        "a\nb",
        "url(x)",
        "</style>",
        "a\\b",
        "a/*b*/",
        "a:b",
    ],
)
def test_font_family_that_ends_its_declaration_is_rejected(value: str) -> None:
    assert not fits(validation.validate_font_family, value)


@given(st.text(max_size=12))
def test_text_is_trimmed_without_control_characters(value: str) -> None:
    rule = validation.text_rule(10)
    if fits(rule, value):
        kept = rule(value)
        assert kept == value.strip() and 1 <= len(kept) <= 10 and "\x00" not in kept


@pytest.mark.parametrize("value", ["", "  ", "\x00", "a\x00b", "a\x1b", "a\x7f", "a" * 11])
def test_invalid_text_is_rejected(value: str) -> None:
    assert not fits(validation.text_rule(10), value)


# --------------------------------------------------------------------------------------------- composition


def test_nested_errors_have_paths() -> None:
    rule = {
        "form": validation.list_rule(
            validation.object_rule({"price": validation.validate_amount, "name": validation.text_rule(5)}), 3, distinct=False
        )
    }
    forms = [{"price": Decimal(1), "name": "ok"}, {"price": Decimal(-1), "name": "far too long"}]
    _, failures = validation.validate_fields(rule, {"form": forms}, ["rows", "4"])
    assert [failure.path for failure in failures] == [("rows", "4", "form", "1", "price"), ("rows", "4", "form", "1", "name")]
    assert {failure.code for failure in failures} == {UserErrorCode.INVALID_INPUT}
    assert all(failure.message.startswith(".".join(failure.path)) for failure in failures)


def test_all_errors_are_raised_at_once() -> None:
    with pytest.raises(MutationRejected) as raised:
        validation.require_valid_fields(
            PRODUCT_RULES, {"title": "", "price": Decimal(-1), "handle": None, "tags": ["ok", "\x00"]}
        )
    assert [failure.path for failure in raised.value.field_errors] == [("title",), ("price",), ("handle",), ("tags", "1")]


def test_list_drops_duplicates_and_is_bounded() -> None:
    rule = validation.list_rule(validation.text_rule(5), 3)
    assert rule([" a", "b", "a "]) == ["a", "b"]
    assert not fits(rule, ["a", "b", "c", "d"])


def test_null_is_accepted_only_for_optional_fields() -> None:
    assert validation.optional_rule(validation.slug_rule(100))(None) is None
    assert not fits(validation.non_null_rule(validation.slug_rule(100)), None)


def test_attribute_names_are_unique() -> None:
    validate_attributes = VARIANT_RULES["attributes"]
    assert validate_attributes([{"name": "size", "value": "S"}, {"name": "colour", "value": "red"}]) == {
        "size": "S",
        "colour": "red",
    }
    assert not fits(validate_attributes, [{"name": "size", "value": "S"}, {"name": " size", "value": "M"}])
    assert not fits(validate_attributes, [{"name": str(n), "value": "x"} for n in range(11)])


def test_compare_at_price_is_never_below_the_price() -> None:
    assert not find_contradictions({"price": "9.99", "compareAtPrice": "9.99"})
    assert not find_contradictions({"price": "9.99", "compareAtPrice": None})
    [failure] = find_contradictions({"price": "99999999.99", "compareAtPrice": "99999999.98"}, ["rows", "0"])
    assert failure.path == ("rows", "0", "compareAtPrice")


@given(st.text(max_size=40))
def test_id_is_a_uuid_or_rejected(value: str) -> None:
    assert not fits(validation.validate_id, value)
