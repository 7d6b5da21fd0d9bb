"""Protection against CSRF for requests with session cookies, by Origin, Sec-Fetch-Site and custom headers."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from storefront.core.errors import Forbidden

DEFAULT_PORTS = {"http": 80, "https": 443}

# Stands for the port of an origin whose pages may have any port.
_ANY_PORT = ":*"
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
LOOPBACK_ORIGINS = tuple(f"{scheme}://{host}{_ANY_PORT}" for host in _LOOPBACK_HOSTS for scheme in DEFAULT_PORTS)
"""Pages that are served by this machine to its own browsers, at any port."""

# Custom headers. A page of another origin can send them only after a CORS preflight.
PREFLIGHT_HEADERS = ("apollo-require-preflight", "graphql-require-preflight", "x-apollo-operation-name", "x-requested-with")

# Same origin, or started by the user (address bar). Scripts cannot set Sec-Fetch-Site.
_TRUSTED_FETCH_SITES = frozenset({"same-origin", "none"})


class AllowedOrigins(Container[str]):
    """A set of origins: exact ones, and those of this machine with any port, such as http://localhost:*.

    Iterates over the exact ones. Raises ValueError for an invalid one.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        cleaned = {text.strip().rstrip("/").lower() for text in texts}
        self._any_port = frozenset(text.removesuffix(_ANY_PORT) for text in cleaned if text in LOOPBACK_ORIGINS)
        self._exact = frozenset(normalize_origin(text) for text in cleaned if text not in LOOPBACK_ORIGINS)

    def __contains__(self, origin: object) -> bool:
        if not isinstance(origin, str):
            return False
        scheme_and_host, _, port = origin.rpartition(":")
        return origin in self._exact or (scheme_and_host if port.isdecimal() else origin) in self._any_port

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._exact))

    def __bool__(self) -> bool:
        return bool(self._exact or self._any_port)


def check_request_origin(headers: Mapping[str, str], allowed_origins: Container[str]) -> None:
    """Raise Forbidden unless the request comes from this origin or an allowed one.

    Only for requests with cookies: other sites cannot send a bearer token. `headers` by lower-case name, of a request or of a
    WebSocket handshake. A request without Origin and Sec-Fetch-Site, such as from a front end's server that forwards cookies,
    must have one of PREFLIGHT_HEADERS: browsers of before 2021 omit Origin from simple requests, and cannot add these headers.
    """
    origin = headers.get("origin")
    if origin is not None and origin in allowed_origins:
        return
    fetch_site = headers.get("sec-fetch-site")
    # Sec-Fetch-Site is reliable behind a proxy, too. Without it (an old browser, or plain HTTP on a local network), the host of
    # Origin must equal the Host header.
    if fetch_site in _TRUSTED_FETCH_SITES or (fetch_site is None and _is_same_host(origin, headers.get("host"))):
        return
    if fetch_site is None and origin is None and any(headers.get(name) for name in PREFLIGHT_HEADERS):
        return
    raise Forbidden(_format_refusal(origin))


def normalize_origin(text: str) -> str:
    """An origin as browsers write it, such as https://shop.example; raises ValueError for an invalid one."""
    parts = urlsplit(text.strip().rstrip("/").lower())
    if (
        parts.scheme not in DEFAULT_PORTS
        or not parts.hostname
        or not re.fullmatch(r"[^:]+(:\d+)?|\[[^\]]+\](:\d+)?", parts.netloc)
        or "@" in parts.netloc
        or parts.path
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"{text.strip()[:100]!r} is not an origin. Write it as https://shop.example or http://localhost:3000")
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
