"""Whether a request that a browser signed by itself, with a cookie, was meant by its user. A function of headers alone."""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from storefront.core.errors import Forbidden

DEFAULT_PORTS = {"http": 80, "https": 443}

# Headers that nobody needs but those who want to say that they could send them: a page of another origin has to ask first.
PREFLIGHT_HEADERS = ("apollo-require-preflight", "graphql-require-preflight", "x-apollo-operation-name", "x-requested-with")

# A page of the same origin, or the address bar: no foreign site had a hand in either. Scripts cannot set this header.
_TRUSTED_FETCH_SITES = frozenset({"same-origin", "none"})


def check_request_origin(headers: Mapping[str, str], allowed_origins: Collection[str]) -> None:
    """Raise Forbidden unless the request comes from this origin or an allowed one. For cookies only: nobody else can send
    a bearer token. `headers` by lower-case name; of a handshake for a WebSocket as of any other request.

    What says nothing of where it comes from, as a server of the front end that passes cookies on, has to send one of the
    headers `PREFLIGHT`: browsers of before 2021 leave the origin out of what they send unasked, and cannot add these to it.
    """
    origin = headers.get("origin")
    if origin is not None and origin in allowed_origins:
        return
    fetch_site = headers.get("sec-fetch-site")
    # A browser that names the relation knows it better than we do behind a proxy. Where it does not (an old one, or plain
    # HTTP on a local network), the origin has to be the very host that was asked.
    if fetch_site in _TRUSTED_FETCH_SITES or (fetch_site is None and _is_same_host(origin, headers.get("host"))):
        return
    if fetch_site is None and origin is None and any(headers.get(name) for name in PREFLIGHT_HEADERS):
        return
    raise Forbidden(_format_refusal(origin))


def normalize_origin(text: str) -> str:
    """An origin as browsers write it, such as https://shop.example; raises ValueError for anything else."""
    parts = urlsplit(text.strip().rstrip("/").lower())
    if (
        parts.scheme not in DEFAULT_PORTS
        or not parts.hostname
        or "@" in parts.netloc
        or parts.path
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"{text.strip()[:100]!r} is no origin. Write it such as https://shop.example or http://localhost:3000")
    return f"{parts.scheme}://{_strip_default_port(parts.netloc, DEFAULT_PORTS[parts.scheme])}"


def _is_same_host(origin: str | None, host: str | None) -> bool:
    if not origin or not host:
        return False
    try:
        scheme, _, origin_netloc = normalize_origin(origin).partition("://")
    except ValueError:
        return False
    return origin_netloc == _strip_default_port(host.lower(), DEFAULT_PORTS[scheme])


def _strip_default_port(netloc: str, default_port: int) -> str:
    return netloc.removesuffix(f":{default_port}")


def _format_refusal(origin: str | None) -> str:
    origin_text = f"this one came from {origin[:100]!r}" if origin else "this one has no Origin header"
    return (
        f"A request with a session cookie must come from a page of this server or of an allowed origin; {origin_text}. "
        "Add the page's origin to STOREFRONT_ALLOWED_ORIGINS, or send Authorization: Bearer <token>. A server that passes "
        "its users' cookies on says so with the header x-requested-with."
    )
