"""Who sends a request, as far as its headers tell without any proof. Knows headers, but no web framework and no shop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

# Bits of an address that are kept: they name a network, not the one who is in it.
_NETWORK_PREFIX_BITS = {4: 24, 6: 48}


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The headers of a request, by lower-case name, and the address that it came from."""

    headers: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None

    @property
    def network(self) -> str | None:
        """The address without what would tell one shopper from their neighbours. The whole of it is for nobody to keep."""
        return truncate_address(self.host) if self.host else None

    @property
    def has_opted_out(self) -> bool:
        """Whether the browser says that its user does not want to be tracked: Do Not Track, or Global Privacy Control."""
        return self.headers.get("dnt") == "1" or self.headers.get("sec-gpc") == "1"


def truncate_address(host: str) -> str | None:
    """An address as /24 (IPv4) or /48 (IPv6) with the rest zero; None for what is no address, such as a socket's path."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    dropped_bits = address.max_prefixlen - _NETWORK_PREFIX_BITS[address.version]
    return str(type(address)(int(address) >> dropped_bits << dropped_bits))
