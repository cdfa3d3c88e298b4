"""What ``local.conf`` says of physical paths."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from ztnode.node.local_conf import LocalConf, parse


def test_physical_networks() -> None:
    """A whole file of the reference, with parts that are none of ours."""
    found = parse(
        b'{"settings": {"primaryPort": 9993}, "virtual": {}, "physical": {"10.0.0.0/8": {"mtu": 1400},'
        b' "10.1.2.3/16": {"blacklist": true}, "fd00::/8": {"trustedPathId": 7, "mtu": 9000}, "0.0.0.0/0": {}}}'
    )
    assert found == LocalConf(
        port=9993,
        mtus=((ip_network("10.0.0.0/8"), 1400), (ip_network("fd00::/8"), 9000)),
        avoided=(ip_network("10.1.0.0/16"),),
        trusted=((ip_network("fd00::/8"), 7),),
    )
    assert parse(b"{}") == LocalConf()


def test_peers_ports_and_what_means_nothing() -> None:
    document = {
        "virtual": {
            "89e92ceee5": {"try": ["192.0.2.1/9993", "2001:db8::1/443"], "blacklist": ["10.0.0.0/8"], "bond": 1},
            "0123456789": {"blacklist": ["fd00::/8"]},
        },
        "physical": {"10.0.0.0/8": {"hops": 1}},
        "settings": {
            "primaryPort": 0,
            "interfacePrefixBlacklist": ["docker", ""],
            "portMappingEnabled": True,
            "softwareUpdate": "disable",
            "secondaryPort": 0,
            "tertiaryPort": 1234,
            "allowTcpFallbackRelay": False,
            "tcpFallbackRelay": "192.0.2.9/443",
            "lowBandwidthMode": 0,
        },
        "notes": "",
    }
    assert parse(json.dumps(document).encode()) == LocalConf(
        hints={0x89E92CEEE5: (("192.0.2.1", 9993), ("2001:db8::1", 443))},
        avoided_of={0x89E92CEEE5: (ip_network("10.0.0.0/8"),), 0x0123456789: (ip_network("fd00::/8"),)},
        port=0,
        avoided_interfaces=("docker",),
        tcp_relay=("192.0.2.9", 443),
        tcp_relay_use="off",
        port_mapping=True,
        unused=(
            "notes",
            "physical.10.0.0.0/8.hops",
            "virtual.89e92ceee5.bond",
            "settings.tertiaryPort",
            "settings.lowBandwidthMode",
        ),
    )


@pytest.mark.parametrize(
    ("settings", "relay", "use"),
    [
        ({}, None, None),
        ({"allowTcpFallbackRelay": True}, None, "auto"),
        ({"tcpFallbackRelay": "192.0.2.9/8443"}, ("192.0.2.9", 8443), None),
        ({"tcpFallbackRelay": "192.0.2.9/8443", "allowTcpFallbackRelay": False}, ("192.0.2.9", 8443), "off"),
        ({"allowTcpFallbackRelay": False, "forceTcpRelay": True}, None, "force"),
    ],
)
def test_whether_and_which_tcp_relay(
    settings: dict[str, object], relay: tuple[str, int] | None, use: str | None
) -> None:
    found = parse(json.dumps({"settings": settings}).encode())
    assert (found.tcp_relay, found.tcp_relay_use, found.unused) == (relay, use, ())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"settings": {"primaryPort": "9993"}}', "primaryPort"),
        (b'{"settings": {"primaryPort": 65536}}', "primaryPort"),
        (b'{"settings": {"interfacePrefixBlacklist": "docker"}}', "interfacePrefixBlacklist"),
        (b'{"settings": []}', "settings"),
        (b'{"settings": {"tcpFallbackRelay": "home/443"}}', "tcpFallbackRelay"),
        (b'{"settings": {"forceTcpRelay": "true"}}', "forceTcpRelay"),
        (b'{"virtual": {"89e92ceee": {}}}', "'89e92ceee'"),
        (b'{"virtual": {"89e92ceee5": []}}', "89e92ceee5"),
        (b'{"virtual": {"89e92ceee5": {"try": "192.0.2.1/9993"}}}', "try"),
        (b'{"virtual": {"89e92ceee5": {"try": [1]}}}', "try"),
        (b'{"virtual": {"89e92ceee5": {"try": ["192.0.2.1"]}}}', "IP/PORT"),
        (b'{"virtual": {"89e92ceee5": {"try": ["home/9993"]}}}', "IP/PORT"),
        (b'{"virtual": {"89e92ceee5": {"blacklist": ["here"]}}}', "'here'"),
        (b"", "not JSON"),
        (b"[" * 100000, "not JSON"),
        (b'{"settings":\n {"primaryPort": 1,}}', "not JSON: .*line 2, column"),
        (b"\xff{}", "not JSON"),
        (b"[]", "physical"),
        (b'{"physical": []}', "physical"),
        (b'{"physical": {"here": {}}}', "'here' is no network"),
        (b'{"physical": {"10.0.0.0/8": 1400}}', "10.0.0.0/8"),
        (b'{"physical": {"10.0.0.0/8": {"mtu": 100}}}', "548"),
        (b'{"physical": {"10.0.0.0/8": {"mtu": "1400"}}}', "548"),
        (b'{"physical": {"10.0.0.0/8": {"mtu": true}}}', "548"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(data)
