"""The network policy against SSRF: which addresses requests on behalf of users may go to: public and explicitly allowed ones."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

Address = IPv4Address | IPv6Address

# Allowed ports below 1,024. Other low ports belong to services that might misinterpret an HTTP request.
WEB_PORTS = (80, 443)
MAX_URL_CHARACTERS = 2_048

# The special-purpose networks of IANA's registries, and 168.63.129.16, which looks public but is the host of every machine at
# Azure.
_NON_PUBLIC_NETWORKS = [
    ip_network(text)
    for text in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
        "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20"
    ).split()
]
# Global unicast. NAT64, IPv4-mapped and IPv4-compatible addresses, unique local, link-local, site-local and multicast ones lie
# outside: they name IPv4 addresses, or hosts in the network of this server.
_PUBLIC_IPV6_NETWORK = ip_network("2000::/3")


class NetworkPolicy:
    """Allows public addresses, and those in `allowed_networks`."""

    def __init__(self, allowed_networks: Iterable[str] = ()) -> None:
        """Raises ValueError for an invalid network."""
        self._allowed_networks = [ip_network(text) for text in allowed_networks]

    def is_allowed(self, text: str) -> bool:
        """Whether connections to an address are allowed."""
        try:
            address = ip_address(text)
        except ValueError:
            # With a zone, such as fe80::1%eth0: never public.
            return False
        return any(address in network for network in self._allowed_networks) or _is_public(address)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6_NETWORK:
        return False
    return not any(address in network for network in _NON_PUBLIC_NETWORKS)


def find_url_problem(url: str, *, allow_http: bool) -> str | None:
    """What is wrong with a target URL, or None. `allow_http`: http:// is allowed, too."""
    if len(url) > MAX_URL_CHARACTERS:
        return f"must have at most {MAX_URL_CHARACTERS:,} characters, not {len(url):,}."
    if not url.isascii() or not url.isprintable() or any(character in url for character in ' <>"\\^`{|}'):
        return 'must be written in ASCII without spaces and control characters: a host with other letters as "xn--…".'
    try:
        parts = urlsplit(url)
        return _find_parts_problem(parts, parts.port, ("https", "http") if allow_http else ("https",))
    except ValueError:
        return _NOT_A_URL_PROBLEM


_NOT_A_URL_PROBLEM = 'must be a URL such as "https://example.com/hooks".'


def _find_parts_problem(parts: SplitResult, port: int | None, schemes: tuple[str, ...]) -> str | None:
    if not parts.hostname:
        return _NOT_A_URL_PROBLEM
    if parts.scheme == "http" and parts.scheme not in schemes:
        return 'must begin with "https://": this server allows "http://" only where STOREFRONT_WEBHOOK_HTTP is set.'
    if parts.scheme not in schemes:
        return _NOT_A_URL_PROBLEM
    if parts.username is not None or parts.password is not None:
        return "must not contain a user or password: requests are signed instead."
    if parts.fragment:
        return "must not have a fragment (#): it is not sent."
    if port is None or port in WEB_PORTS or port >= 1_024:
        return None
    return f"must have the port 80, 443 or one from 1024 on, not {port}."
