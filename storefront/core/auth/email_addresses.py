"""Normalization of e-mail addresses for comparison."""

import unicodedata

import idna

# RFC 5321, 4.5.3.1.3: the maximum length of a path without its angle brackets.
MAX_ADDRESS_BYTES = 254


def normalize_email(text: str) -> str | None:
    """The normal form, equal for all spellings of one mailbox; None where the text is not an unambiguous address.

    Surrounding spaces, letter case, a final dot of the domain and Unicode or `xn--` spellings of the domain are ignored. Tags
    (`ada+shop@`) are significant. Compatibility characters, such as full-width letters and zero-width spaces, are rejected, never
    replaced: an address that has them could otherwise be used to receive the messages for one mailbox and to sign in as another.
    """
    address = text.strip()
    local, _, domain = address.rpartition("@")
    if not local or "@" in local or not _is_unambiguous(address):
        return None
    ascii_domain = _encode_domain(domain.removesuffix("."))
    if ascii_domain is None:
        return None
    normal = f"{_fold_case(local)}@{ascii_domain}"
    return normal if len(normal.encode()) <= MAX_ADDRESS_BYTES else None


def _is_unambiguous(address: str) -> bool:
    if not unicodedata.is_normalized("NFKC", address):
        return False
    return all(character.isprintable() and not character.isspace() for character in address)


def _encode_domain(domain: str) -> str | None:
    try:
        # IDNA 2008: IDNA 2003 maps "ß" to "ss", but these are different domains with different owners.
        encoded = domain.lower() if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except UnicodeError:
        return None
    return encoded if all(encoded.split(".")) else None


def _fold_case(text: str) -> str:
    # Simple case folding, letter by letter: "ß" and "ss" are different mailboxes, too.
    return "".join(folded if len(folded := letter.casefold()) == 1 else letter.lower() for letter in text)
