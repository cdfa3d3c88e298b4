"""What ``local.conf`` says of physical paths."""

from __future__ import annotations

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
        mtus=((ip_network("10.0.0.0/8"), 1400), (ip_network("fd00::/8"), 9000)),
        avoided=(ip_network("10.1.0.0/16"),),
        trusted=((ip_network("fd00::/8"), 7),),
    )
    assert parse(b"{}") == LocalConf()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[" * 100000, "not JSON"),
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
