"""Where a request comes from.

The peer of its connection. No header of a client's says otherwise: who stands in between is not
known here, so that behind a proxy all have the proxy's address. Behind a Unix socket only the shell
of a function listens (`webhook.lambda_entry`), which puts what API Gateway says into a header of
its own.
"""

from __future__ import annotations

import ipaddress

from aiohttp.web_request import BaseRequest

ADDRESS_HEADER = "x-bloomweaver-address"
"""Set by the shell for every request, so that nothing a client sends gets through."""
_IPV6_NETWORK_BITS = 64
"""What one customer of a provider is given, as a rule, and may send from as it likes."""


def address_of(request: BaseRequest) -> str:
    """Without port; empty where there is none."""
    if _came_by_unix_socket(request):
        return request.headers.get(ADDRESS_HEADER, "")[:64]
    return request.remote or ""


def _came_by_unix_socket(request: BaseRequest) -> bool:
    """Not told by a missing peer: a client that is gone at once has none either."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)


def network_of(address: str) -> str:
    """The address; of IPv6 the network that it is from; empty for what is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))


def is_of_this_machine(network: str) -> bool:
    """By its address alone: a proxy on this machine speaks for many."""
    return network.startswith("127.") or network == "::/64"
