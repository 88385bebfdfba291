"""Parses ``WS_TRUSTED_PROXIES``, and finds the address of a client behind proxies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
HEADER = b"x-forwarded-for"
MAX_HOPS = 32  # proxies that are looked at; a client cannot make us read a long list
# "1.2.3.4", "1.2.3.4:56", "[::1]", "[::1]:56" and "::1"
FORWARDED = re.compile(
    r"[ \t]*(?:([0-9.]+)(?::[0-9]{1,5})?"
    r"|\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?"
    r"|([0-9A-Fa-f:.]+))[ \t]*",
    re.ASCII,
)
MAPPED_BITS = 96  # ::ffff:0:0/96 holds the addresses of IPv4


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Whose X-Forwarded-For is believed."""

    networks: tuple[Network, ...] = ()
    unix: bool = False  # also a peer without an IP address: it comes over a unix socket

    def trusts(self, address: Address | None) -> bool:
        if address is None:
            return self.unix
        # A network of the other version contains no address, and says so without an error.
        return any(address in network for network in self.networks)


def parse_trusted_proxies(value: Any) -> TrustedProxies:
    """A list of IP addresses, CIDR networks and ``"unix"``. Raises ``ValueError``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{value!r} is not a list of addresses")
    networks = tuple(_network(item) for item in value if item != UNIX)
    return TrustedProxies(networks, UNIX in value)


def _network(item: Any) -> Network:
    if not isinstance(item, str):
        raise ValueError(f"{item!r} is not a str")
    try:
        network = ip_network(item)
    except ValueError as error:
        raise ValueError(f"{item!r} is neither an address nor a network ({error})") from None
    if network.prefixlen == 0:
        raise ValueError(f"{item!r} holds every address: any client could name itself as it likes")
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def client_address(scope: Mapping[str, Any], proxies: TrustedProxies) -> str | None:
    """The client's IP address in its shortest form; None where it is not known.

    It is the peer's address. Where that is a trusted proxy, X-Forwarded-For is read from the
    right: the first address in it that is not trusted is the client's, since whatever stands
    left of it may be forged. What is no address ends the reading too.
    """
    peer = scope.get("client")
    address = _peer_address(peer[0] if peer else None)
    if proxies.trusts(address):
        for item in _forwarded(scope["headers"]):
            hop = _hop_address(item)
            if hop is None:
                break
            address = hop
            if not proxies.trusts(hop):
                break
    return None if address is None else str(address)


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """The items of all X-Forwarded-For headers together, from the right."""
    # Not every server lowers the names, though ASGI asks for it.
    values = [value for name, value in headers if name.lower() == HEADER]
    if not values:
        return ()
    return reversed(b",".join(values).decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:])


def _peer_address(host: Any) -> Address | None:
    if not isinstance(host, str):
        return None
    try:
        return _plain(ip_address(host.partition("%")[0]))  # without a zone: fe80::1%eth0
    except ValueError:
        return None


def _hop_address(item: str) -> Address | None:
    match = FORWARDED.fullmatch(item)
    if match is None:
        return None
    try:
        return _plain(ip_address(match[match.lastindex or 0]))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """An address of IPv4 as such, where a socket for both versions has mapped it into IPv6."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
