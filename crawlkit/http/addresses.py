"""Addresses: which of them are public, and which ports are not for the web.

A page of the web must not be able to send the crawl to the machine that it runs on, to its network
or to its cloud (server-side request forgery). Decisions only: nothing here looks up a name.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from .cookies import hostname

# The tables are our own, because those of `ipaddress` differ between patch releases of Python:
# IANA's registries of special-purpose addresses, multicast, and what clouds keep for themselves.
_SPECIAL_4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # "this network"; 0.0.0.0 connects to this machine
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and Alibaba Cloud's metadata
            "127.0.0.0/8",
            "168.63.129.16/32",  # the host of an Azure machine
            "169.254.0.0/16",  # link-local, and most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # IETF protocols, and Oracle Cloud's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_UNICAST_6 = ip_network("2000::/3")  # all that was ever given to anybody
_SPECIAL_6 = tuple(
    map(
        ip_network,
        (
            "2001::/23",  # IETF protocols, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
# IPv4 inside: the last four bytes decide. A network with IPv6 only reaches all IPv4 sites by the
# second; the local form of it (64:ff9b:1::/48) is private.
_WRAPPED_4 = (ip_network("::ffff:0:0/96"), ip_network("64:ff9b::/96"))

BAD_PORTS = frozenset(
    map(
        str,
        [
            *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79),
            *(87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137),
            *(139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540),
            *(548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049),
            *(3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679),
            *(6697, 10080),
        ],
    )
)
"""Ports of other protocols, as in URLs, that browsers do not connect to (Fetch Standard, "port
blocking"): a link may not make the crawl talk to a mail server."""


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    Not public are private, loopback, link-local, multicast, reserved and documentation addresses,
    carrier-grade NAT, clouds' metadata services, IPv4 addresses inside of IPv6 that are one of
    these, and the tunnels 6to4 and Teredo.

    Args:
        address: IPv4 or IPv6, the latter with or without a scope id (``fe80::1%eth0``).

    Returns:
        ``False``, too, for what is no address.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        if any(ip in network for network in _WRAPPED_4):
            ip = IPv4Address(ip.packed[12:])
        else:
            return ip in _UNICAST_6 and not any(ip in network for network in _SPECIAL_6)
    return not any(ip in network for network in _SPECIAL_4)


@lru_cache(maxsize=4096)
def is_private_host(host: str) -> bool:
    """Whether a host says by itself that it is private: an address that is, or ``localhost``.

    Of other names only the resolver can tell.

    Args:
        host: ``host[:port]`` of a canonical URL.
    """
    name = hostname(host)
    if ":" in name:
        return not is_public(name)
    name = name.removesuffix(".")
    if name.rpartition(".")[2].isdigit():  # no name ends in a number (WHATWG URL Standard)
        return not is_public(name)
    # Names that never mean another machine (RFC 6761, section 6.3).
    return name == "localhost" or name.endswith(".localhost")


def is_bad_port(host: str) -> bool:
    """Whether the port of a canonical URL's ``host[:port]`` is one of `BAD_PORTS`."""
    return host.rpartition(":")[2] in BAD_PORTS
