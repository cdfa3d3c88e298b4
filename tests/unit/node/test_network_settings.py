"""``networks.d/<nwid>.local.conf``: what a user lets a network do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from ztnode.node.network_settings import NetworkSettings, build, parse, unused


def test_a_list_of_networks_bounds_what_may_come() -> None:
    settings = parse(b"allowManaged=10.1.0.0/16,fd00::/8\nallowDefault=1\n")
    assert settings.allow_managed and settings.managed_within == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert settings.allows_address("10.1.2.3/24") and settings.allows_address("fd12::1/88")
    # The network has to be inside, as the reference asks it.
    for address in ("10.1.2.3/8", "10.2.0.1/24", "2001:db8::1/64"):
        assert not settings.allows_address(address)
    assert settings.allows_route("10.1.9.0/24") and not settings.allows_route("10.0.0.0/8")
    assert not settings.allows_route("0.0.0.0/0")
    kept = build(settings, b"allowManaged=1\nnote=x\n")
    assert b"allowManaged=10.1.0.0/16,fd00::/8\n" in kept and b"note=x\n" in kept and parse(kept) == settings
    assert not parse(build(replace(settings, allow_managed=False), kept)).allow_managed


def test_words_and_what_means_nothing() -> None:
    assert parse(b"") == NetworkSettings()
    assert not parse(b"allowManaged=false").allow_managed and parse(b"allowManaged=true").allow_managed
    assert not parse(b"allowManaged=everything").allow_managed, "a list without a network in it lets nothing in"
    assert parse(b"allowManaged=nonsense,10.0.0.0/8").managed_within == (ip_network("10.0.0.0/8"),)
    assert unused(b"allowDNS=1\nbridge=1\n\nbridge=0\nother") == ("bridge", "other")
