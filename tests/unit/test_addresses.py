"""Whom an address stands for."""

from __future__ import annotations

import pytest

from webhook.addresses import is_of_this_machine, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/socket", ""),
    ],
)
def test_an_address_of_ipv6_stands_for_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_known_by_its_address(address: str) -> None:
    assert is_of_this_machine(network_of(address))


@pytest.mark.parametrize("address", ["203.0.113.7", "12.7.0.1", "2001:db8::1", ""])
def test_others_are_not_this_machine(address: str) -> None:
    assert not is_of_this_machine(network_of(address))
