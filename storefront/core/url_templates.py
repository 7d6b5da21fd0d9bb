"""Templates of the URLs of products in a shop: https://shop.example/products/{handle}?variant={variantId}."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

MAX_TEMPLATE_CHARACTERS = 1_000
EXAMPLE_TEMPLATE = "https://shop.example/products/{handle}"
# What a template may contain, and of which it has to have one: else all products would have the same URL.
PLACEHOLDERS = ("handle", "productId", "variantId")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RESERVED_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


def find_template_problem(template: str) -> str | None:
    """What is wrong with a template, or None."""
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        return f"must have at most {MAX_TEMPLATE_CHARACTERS:,} characters."
    try:
        parts = urlsplit(_PLACEHOLDER.sub("0", template))
        is_url = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True) and parts.username is None
    except ValueError:
        is_url = False
    # The host is the shop's: no product may choose it.
    if not is_url or "{" in _cut_origin(template) or re.search(r"[\s<>\"\\\x00-\x1f\x7f]", template):
        return f'must be the address of a page such as "{EXAMPLE_TEMPLATE}".'
    names = _PLACEHOLDER.findall(template)
    if unknown := next((name for name in names if name not in PLACEHOLDERS), None):
        return f"has the unknown placeholder {{{unknown[:40]}}}. Known ones are {_list_placeholders()}."
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        return f"has a brace that is no placeholder. Placeholders are {_list_placeholders()}."
    return None if names else f"must have a placeholder: {_list_placeholders()}."


def expand_template(template: str, values: Mapping[str, str]) -> str:
    """The URL with these values of the placeholders, in ASCII."""
    return encode_url(_PLACEHOLDER.sub(lambda match: quote(values[match[1]], safe=""), template))


def get_origin(template: str) -> str:
    """The address of the shop: scheme, host and port."""
    return encode_url(f"{_cut_origin(template)}/")


def _cut_origin(template: str) -> str:
    return "/".join(re.split(r"[?#]", template, maxsplit=1)[0].split("/", 3)[:3])


def encode_url(url: str) -> str:
    """A URL with all but ASCII percent-encoded (RFC 3986), and its host as browsers send it."""
    if url.isascii():
        return url
    parts = urlsplit(url)
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError:
        host = parts.hostname or ""
    origin = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
    return quote(origin + url.split("://", 1)[1].removeprefix(parts.netloc), safe=_RESERVED_CHARACTERS)


def _list_placeholders() -> str:
    return ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
