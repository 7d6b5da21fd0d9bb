"""Which addresses may be connected to on behalf of somebody else: those of the public Internet, and what an operator allows."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Ports below 1,024 that are the web's. The others are of services that might take a request for something else.
WEB_PORTS = (80, 443)
LONGEST_URL = 2_048

# What the registries of IANA keep from the public Internet, and an address that looks public: at Azure it is the host of every
# machine.
_CLOSED = [
    ip_network(text)
    for text in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
        "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20"
    ).split()
]
# All of IPv6 that is given out. NAT64, mapped and compatible addresses, unique local, link-local, site-local and multicast ones
# lie outside: they name something of IPv4, or of the network that this server is in.
_PUBLIC_6 = ip_network("2000::/3")


class Networks:
    """What may be connected to. `allowed` are networks that count as public, whatever they are."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Raises ValueError where one is no network."""
        self._allowed = [ip_network(text) for text in allowed]

    def permit(self, text: str) -> bool:
        """Whether an address, as text, may be connected to."""
        try:
            address = ip_address(text)
        except ValueError:
            # With a zone, as fe80::1%eth0: never public.
            return False
        return any(address in network for network in self._allowed) or _is_public(address)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _PUBLIC_6:
        return False
    return not any(address in network for network in _CLOSED)


def url_fault(url: str, *, plain: bool) -> str | None:
    """What is wrong with an address to send to, or None. `plain`: http:// will do as well."""
    if len(url) > LONGEST_URL:
        return f"must have at most {LONGEST_URL:,} characters, not {len(url):,}."
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in ' <>"\\^`{|}'):
        return 'must be written in ASCII without spaces and control characters: a host with other letters as "xn--…".'
    try:
        parts = urlsplit(url)
        return _parts_fault(parts, parts.port, ("https", "http") if plain else ("https",))
    except ValueError:
        return _NO_URL


_NO_URL = 'must be an address such as "https://example.com/hooks".'


def _parts_fault(parts: SplitResult, port: int | None, schemes: tuple[str, ...]) -> str | None:
    if parts.scheme not in schemes or not parts.hostname:
        return _NO_URL
    if parts.username is not None or parts.password is not None:
        return "must not have a user or password in it: requests are signed instead."
    if parts.fragment:
        return "must not have a part behind #: it is not sent."
    if port is None or port in WEB_PORTS or port >= 1_024:
        return None
    return f"must have the port 80, 443 or one from 1024 on, not {port}."
