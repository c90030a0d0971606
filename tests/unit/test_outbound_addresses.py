"""No address that leads to this machine, its networks or its cloud is one to connect to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.outbound_addresses import is_public

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1",
          "172.32.0.1", "192.167.255.255", "223.255.255.255", "2606:4700:4700::1111",
          "2001:4860:4860::8888", "2a00:1450::1", "64:ff9b::808:808"]  # fmt: skip

REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255",  # noqa: S104
    "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.0.1",
    "100.64.0.1", "100.100.100.200", "100.127.255.255", "168.63.129.16", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "100::1", "2001:db8::1", "3fff::1", "5f00::1", "2001::1", "2001:10::1", "2001:20::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808",
    "2002:7f00:1::", "2002:808:808::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2606:4700::1%eth0", "", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1",
    "8.8.8.08", " 8.8.8.8", "8.8.8.8 ", "８.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_connected_to(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", REFUSED)
def test_everything_else_may_not(address: str) -> None:
    assert not is_public(address)


def is_elsewhere(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """By the standard library's own tables, which know nothing of ours."""
    unwanted = (
        address.is_private, address.is_loopback, address.is_link_local, address.is_multicast,
        address.is_reserved, address.is_unspecified,
    )  # fmt: skip
    return address.is_global and not any(unwanted)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_passes_that_the_standard_library_knows_to_be_special(
    address: ipaddress.IPv4Address,
) -> None:
    assert not is_public(str(address)) or is_elsewhere(address)


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_passes_that_the_standard_library_knows_to_be_special(
    address: ipaddress.IPv6Address,
) -> None:
    assert not is_public(str(address)) or is_elsewhere(address) or str(address)[:9] == "64:ff9b::"


@given(st.ip_addresses(v=4))
def test_an_address_within_an_address_counts(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    compatible = ipaddress.IPv6Address(number)
    six_to_four = ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1)
    teredo = ipaddress.IPv6Address(0x2001_0000 << 96 | (number ^ 0xFFFF_FFFF))
    nat64 = ipaddress.IPv6Address(0x0064_FF9B << 96 | number)
    for embedding in (mapped, compatible, six_to_four, teredo):
        assert not is_public(str(embedding))
    assert is_public(str(nat64)) == is_public(str(address))
