"""Addresses that a stranger may name, and those that reach inside."""

import pytest

from protocol.public_address import is_public

INSIDE = [
    *("127.0.0.1", "10.0.0.7", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("::", "::1", "fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:10.0.0.7", "64:ff9b::10.0.0.7", "2002:0a00:0007::1", "2001:0:4136:e378:8000:63bf:f5ff:fff8"),
]
PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::93.184.216.34"]


@pytest.mark.parametrize("text", INSIDE)
def test_inside(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize("text", ["", "example.org", "1.2.3", "2130706433"])
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        is_public(text)
