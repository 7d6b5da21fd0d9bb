"""Handles: one rule for every script, that changes nothing when it is applied again."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storefront.core.handles import MAX_GENERATED_CHARACTERS, generate_handle, normalize_handle


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oak-table-2", "oak-table-2"),
        (" Blue  Mug ", "blue-mug"),
        ("--A__b--", "a-b"),
        ("Tasse-Größe_1", "tasse-größe-1"),
        ("Кружка синяя", "кружка-синяя"),
        ("М'яч №5", "мяч-5"),
        ("Άνθρωπος ΟΔΟΣ", "άνθρωπος-οδος"),
        ("قميص قطن", "قميص-قطن"),
        ("می\u200cخواهم", "میخواهم"),
        ("חולצה", "חולצה"),
        ("เสื้อยืด", "เสื้อยืด"),
        ("सूती कुर्ता", "सूती-कुर्ता"),
        ("日本の抹茶茶碗", "日本の抹茶茶碗"),
        ("ガラス、コップ", "ガラス-コップ"),
        ("한국어 셔츠", "한국어-셔츠"),
        ("٣ أكواب", "٣-أكواب"),
        ("２０ｃｍ", "20cm"),
        ("socks-dry™", "socks-dry"),
        ("Wi®Fi", "wi-fi"),
        ("❤️ Mug 👩‍👧", "mug"),
        ("1️⃣ First", "1-first"),
        ("Women’s Shoes", "womens-shoes"),
        ("İstanbul", "istanbul"),
        ("e\u0301te\u0301", "été"),
        ("\u0301a ´b", "a-b"),
        ("\u202eevil\ufeff", "evil"),
        ("🎉 — \u3164", ""),
    ],
)
def test_handle_has_words_of_any_script(text: str, expected: str) -> None:
    assert normalize_handle(text) == expected == normalize_handle(unicodedata.normalize("NFD", text))


@given(st.text(st.characters() | st.sampled_from("-_ '’™\u0301\u200d\ufe0f\u0307İK\u1160\ud55c"), max_size=12))
def test_handle_is_normal_form(text: str) -> None:
    handle = normalize_handle(text)
    assert normalize_handle(handle) == handle == unicodedata.normalize("NFKC", handle) == handle.strip("-")
    assert "--" not in handle and not set(handle) & set(" _/?#%'’™\ufe0f\u200d")
    assert {unicodedata.category(letter)[0] for letter in handle.replace("-", "")} <= {"L", "M", "N"}
    generated = generate_handle(text, "product")
    assert generated == normalize_handle(generated) and 1 <= len(generated) <= MAX_GENERATED_CHARACTERS


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Crème Brûlée Pan", "creme-brulee-pan"),
        ("Smørrebrød & Öl™", "smorrebrod-ol"),
        ("Áo dài thêu", "ao-dai-theu"),
        ("Синий чайник", "синий-чайник"),
        ("🎉", "product"),
        ("a" * 100, "a" * 80),
        ("word " * 20, ("word-" * 16).rstrip("-")),
        ("x" * 79 + "กี้", "x" * 79),
    ],
)
def test_generated_handle_is_short_and_readable(title: str, expected: str) -> None:
    assert generate_handle(title, "product") == expected
