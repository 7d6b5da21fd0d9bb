"""Parts of Google's feed that need no database: GTINs and characters of XML."""

from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from storefront.product_feeds.google import parse_gtin, remove_invalid_characters


@pytest.mark.parametrize(
    ("barcode", "gtin"),
    [
        ("4006381333931", "4006381333931"),
        (" 400-638 1333931 ", "4006381333931"),
        ("036000291452", "036000291452"),
        ("96385074", "96385074"),
        ("9780306406157", "9780306406157"),
        ("14006381333938", "14006381333938"),
        # A wrong check digit, other lengths, no digits, digits of another script.
        *((barcode, None) for barcode in ("4006381333932", "40063813339", "", None, "ABC", "٤٠٠٦٣٨١٣٣٣٩٣١", "0000000000000")),
        # In-store numbers and coupons.
        *((barcode, None) for barcode in ("2000000000008", "0200000000004", "0400000000002", "9900000000004")),
    ],
)
def test_only_valid_gtins_are_published(barcode: str | None, gtin: str | None) -> None:
    assert parse_gtin(barcode) == gtin


def test_text_of_any_characters_is_wellformed_xml() -> None:
    every = "".join(map(chr, [*range(0x300), 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xFFFD, 0xFFFE, 0xFFFF, 0x1F600, 0x10FFFF]))
    cleaned = remove_invalid_characters(every)
    parsed = ET.fromstring(f"<a>{escape(cleaned)}</a>".encode())  # noqa: S314
    assert parsed.text == cleaned
    assert set(every) - set(cleaned) - {"\r"} == {
        *map(chr, [*range(0x9), 0xB, 0xC, *range(0xE, 0x20), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF])
    }
