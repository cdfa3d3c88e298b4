"""PCP and NAT-PMP, byte by byte as RFC 6887 (figures 2 to 4, 9, 10) and RFC 6886 (sections 3.2, 3.3) have them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.wire.port_mapping import (
    Mapped,
    OtherVersion,
    build_nat_pmp_address,
    build_nat_pmp_map,
    build_pcp_map,
    parse_nat_pmp_address,
    parse_nat_pmp_map,
    parse_pcp_map,
)
from ztnode.wire.wire_error import WireError

NONCE = bytes(range(12))
OURS = bytes(10) + b"\xff\xff" + bytes((192, 168, 50, 12))
OUTER = bytes(10) + b"\xff\xff" + bytes((80, 1, 1, 31))
MAPPED = bytes.fromhex("0281 00 00 00001c20 00000001") + bytes(12) + NONCE + bytes.fromhex("11000000 2709 4e20") + OUTER


def test_requests() -> None:
    assert build_pcp_map("192.168.50.12", NONCE, 9993, 20000, 7200) == (
        bytes.fromhex("0201 0000 00001c20") + OURS + NONCE + bytes.fromhex("11000000 2709 4e20") + OUTER[:12] + bytes(4)
    )
    assert build_nat_pmp_address() == b"\0\0"
    assert build_nat_pmp_map(9993, 20000, 7200) == bytes.fromhex("0001 0000 2709 4e20 00001c20")
    assert build_nat_pmp_map(9993, 20000, 0) == bytes.fromhex("0001 0000 2709 0000 00000000"), "RFC 6886 section 3.4"


def test_responses() -> None:
    assert parse_pcp_map(MAPPED, NONCE) == Mapped(9993, 20000, 7200, "80.1.1.31")
    assert parse_nat_pmp_address(bytes.fromhex("0080 0000 00000001 5001011f")) == "80.1.1.31"
    assert parse_nat_pmp_map(bytes.fromhex("0081 0000 00000001 2709 4e20 00000e10")) == Mapped(9993, 20000, 3600)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (MAPPED[:3] + b"\x02" + MAPPED[4:], "refused by PCP: not authorized"),
        (MAPPED[:3] + b"\x77" + MAPPED[4:], "refused by PCP: result 119"),
        (MAPPED[:-1], "too short"),
        (MAPPED[:1] + b"\x01" + MAPPED[2:], "no response"),
        (MAPPED[:24] + bytes(12) + MAPPED[36:], "somebody else"),
        (MAPPED[:42] + bytes(2) + MAPPED[44:], "without a port"),
        (b"\x02\x81", "too short"),
    ],
)
def test_what_is_no_mapping_by_pcp(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as refused:
        parse_pcp_map(data, NONCE)
    assert not isinstance(refused.value, OtherVersion)


def test_routers_of_the_other_version() -> None:
    with pytest.raises(OtherVersion):  # what a router with NAT-PMP alone answers, RFC 6887 appendix A
        parse_pcp_map(bytes.fromhex("0081 0001 00000001"), NONCE)
    with pytest.raises(OtherVersion):
        parse_nat_pmp_map(MAPPED)
    with pytest.raises(WireError, match="out of resources"):
        parse_nat_pmp_map(bytes.fromhex("0081 0004 00000001 2709 0000 00000000"))
    with pytest.raises(WireError, match="without a port"):
        parse_nat_pmp_map(bytes.fromhex("0081 0000 00000001 2709 0000 00000e10"))
    assert parse_nat_pmp_map(bytes.fromhex("0081 0000 00000001 2709 0000 00000000")) == Mapped(9993, 0, 0), "given back"
    with pytest.raises(WireError, match="no response"):
        parse_nat_pmp_address(bytes.fromhex("0081 0000 00000001 5001011f"))


@given(st.binary(max_size=80))
def test_anything_else_is_an_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(parse_pcp_map(data, NONCE), Mapped)
    with contextlib.suppress(WireError):
        assert isinstance(parse_nat_pmp_map(data), Mapped)
