"""The host's own addresses: what others can reach, and nothing where a sandbox forbids to ask."""

from __future__ import annotations

import ifaddr
import pytest

from ztnode.node import interfaces


def test_addresses_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    ips: list[tuple[str | tuple[str, int, int], int]] = [
        ("192.0.2.7", 24),
        ("127.0.0.1", 8),
        ("169.254.1.1", 16),
        (("fe80::1", 0, 2), 64),
        (("2001:db8::7", 0, 0), 64),
    ]
    adapters = [
        ifaddr.Adapter("eth0", "eth0", [ifaddr.IP(ip, prefix, "eth0") for ip, prefix in ips]),
        ifaddr.Adapter("ztabcdefgh", "ztabcdefgh", [ifaddr.IP("10.121.15.99", 24, "ztabcdefgh")]),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert interfaces.addresses() == ["192.0.2.7", "2001:db8::7"]
    assert interfaces.addresses(("docker", "et")) == []


def test_a_sandbox_that_forbids_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> list[ifaddr.Adapter]:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(ifaddr, "get_adapters", forbidden)
    assert interfaces.addresses() == []
