"""Unauthenticated metadata of a client: headers and address. Independent of the web framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

# Prefix bits of an address that are stored: they identify a network, not a person.
_NETWORK_PREFIX_BITS = {4: 24, 6: 48}


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The headers of a request, by lower-case name, and the client's address."""

    headers: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None

    @property
    def network(self) -> str | None:
        """The anonymized address: the network alone. The full address must not be stored."""
        return truncate_address(self.host) if self.host else None

    @property
    def has_opted_out(self) -> bool:
        """Whether the user has opted out of tracking: Do Not Track (DNT), or Global Privacy Control (Sec-GPC)."""
        return self.headers.get("dnt") == "1" or self.headers.get("sec-gpc") == "1"


def truncate_address(host: str) -> str | None:
    """An address as /24 (IPv4) or /48 (IPv6) with the rest zero; None for other hosts, such as a socket's path."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    dropped_bits = address.max_prefixlen - _NETWORK_PREFIX_BITS[address.version]
    return str(type(address)(int(address) >> dropped_bits << dropped_bits))
