"""Normalization of e-mail addresses: equal spellings, and invalid addresses."""

import pytest

from storefront.core.auth.email_addresses import MAX_ADDRESS_BYTES, normalize_email

ADA = "ada@example.com"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (ADA, ADA),
        (" \t\u00a0ADA@Example.COM\u3000\n", ADA),
        ("ada@example.com.", ADA),
        ("ada+shop@example.com", "ada+shop@example.com"),
        ("a.d.a@example.com", "a.d.a@example.com"),
        ("Ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        # "ß" is a letter of its own, both in domains and in the names of mailboxes.
        ("ada@faß.example", "ada@xn--fa-hia.example"),
        ("STRAẞE@example.com", "straße@example.com"),
        ("straße@example.com", "straße@example.com"),
        ("strasse@example.com", "strasse@example.com"),
        ("ΣΑΣ@example.com", "σασ@example.com"),
        ("σας@example.com", "σασ@example.com"),
        ("zo\u00e9@example.com", "zo\u00e9@example.com"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_spellings_of_one_mailbox_are_equal(text: str, normal: str) -> None:
    assert normalize_email(text) == normal
    assert normalize_email(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "\uff41da@example.com",  # full-width a
        "ada\uff20example.com",
        "ada@\uff45xample.com",
        "a\u200bda@example.com",  # zero-width space, joiner, byte order mark, soft hyphen, right-to-left override
        "ada\u200d@example.com",
        "\ufeffada@example.com",
        "a\u00adda@example.com",
        "\u202eada@example.com",
        "ada@exam\u200bple.com",
        "\u212aay@example.com",  # the sign for kelvins
        "of\ufb01ce@example.com",  # a ligature
        "zoe\u0301@example.com",  # a letter and its accent as two characters
    ],
)
def test_lookalike_characters_are_rejected(text: str) -> None:
    assert normalize_email(text) is None


@pytest.mark.parametrize(
    "text", ["", " ", "ada", "@", "ada@", "@example.com", "a@b@example.com", "a da@example.com", "ada@example..com", "ada@x\0y",
             "ada@.example.com", "ada@example.com..", "ada@\u0301.example", "a\n@example.com"]
)  # fmt: skip
def test_invalid_address_is_none(text: str) -> None:
    assert normalize_email(text) is None


def test_long_addresses_are_none() -> None:
    longest = "a" * (MAX_ADDRESS_BYTES - len("@example.com")) + "@example.com"
    assert normalize_email(longest) == longest
    assert normalize_email("a" + longest) is None
    assert normalize_email("é" + longest[1:]) is None
