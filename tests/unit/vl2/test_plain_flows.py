"""Which frames nobody has to look at: what lanes may carry, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.vl2.test_vl2_frames import renew
from tests.unit.vl2.vl2_lab import ACCEPT, ALICE, BOB, NWID, Wire, frame, mac
from ztnode.vl2 import PlainFlow
from ztnode.vl2.forwarding import ROUTE_LIFETIME
from ztnode.wire.rules import Range, Rule, RuleType

IPV4 = 0x0800


def talk(wire: Wire, ethertype: int = IPV4) -> None:
    wire.send(ALICE, frame(ALICE, BOB, b"question", ethertype))
    wire.send(BOB, frame(BOB, ALICE, b"answer", ethertype))


def acquainted(wire: Wire) -> None:
    """Both have the other's certificate, which came with the first frame."""
    talk(wire)
    talk(wire)


def plain(wire: Wire) -> list[PlainFlow]:
    return wire.nodes[ALICE].plain_flows(wire.now)


def test_a_flow_is_plain_once_frames_went_and_came(pair: Wire) -> None:
    acquainted(pair)
    renew(pair, ALICE)
    pair.send(ALICE, frame(ALICE, BOB, b"question", IPV4))
    assert not plain(pair)
    pair.send(BOB, frame(BOB, ALICE, b"answer", IPV4))
    (flow,) = plain(pair)
    assert (flow.nwid, flow.address, flow.own_mac, flow.peer_mac) == (NWID, BOB, mac(ALICE), mac(BOB))
    assert (flow.ethertype, flow.mtu, flow.until) == (b"\x08\x00", 2800, pair.now + ROUTE_LIFETIME)
    talk(pair, 0x86DD)
    talk(pair, 0x0806)
    assert {flow.ethertype for flow in plain(pair)} == {b"\x08\x00", b"\x86\xdd"}, "and no ARP"


def test_what_was_decided_ends(pair: Wire) -> None:
    acquainted(pair)
    assert plain(pair)
    pair.now += ROUTE_LIFETIME
    assert not plain(pair)
    talk(pair)
    assert plain(pair)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param((Rule(RuleType.ACTION_DROP),), id="nothing passes"),
        pytest.param(
            (Rule(RuleType.MATCH_IP_DEST_PORT_RANGE, Range(25, 25)), Rule(RuleType.ACTION_DROP), *ACCEPT),
            id="it depends on the frame",
        ),
    ],
)
def test_rules_that_look_at_frames_leave_nothing_plain(pair: Wire, rules: tuple[Rule, ...]) -> None:
    told: list[bool] = []
    acquainted(pair)
    assert plain(pair)
    pair.nodes[ALICE].on_undecided = lambda: told.append(bool(plain(pair)))
    renew(pair, ALICE, BOB, rules=rules)
    assert told and not any(told), "who has carried such frames hears that they are not plain any more"
    talk(pair)
    assert not plain(pair)


def test_who_leaves_has_no_plain_flows(pair: Wire) -> None:
    told: list[Any] = []
    acquainted(pair)
    assert plain(pair)
    pair.nodes[ALICE].on_undecided = lambda: told.append(None)
    pair.nodes[ALICE].leave(NWID, pair.now)
    assert told
    assert not plain(pair)


def test_what_others_carry_is_counted(pair: Wire) -> None:
    acquainted(pair)
    (flow,) = plain(pair)
    (before,) = pair.nodes[ALICE].figures()
    pair.nodes[ALICE].carried(flow, sent=3, octets_sent=300, received=2, octets_received=250)
    (after,) = pair.nodes[ALICE].figures()
    assert (after.frames_sent - before.frames_sent, after.bytes_sent - before.bytes_sent) == (3, 300)
    assert (after.frames_received - before.frames_received, after.bytes_received - before.bytes_received) == (2, 250)
    pair.nodes[ALICE].leave(NWID, pair.now)
    pair.nodes[ALICE].carried(flow, sent=3, octets_sent=300, received=2, octets_received=250)
