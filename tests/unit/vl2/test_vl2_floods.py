"""What a member, a controller or any peer can make VL2 spend. Operations are counted, never time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.vl2.test_vl2_rules import flow, tcp4, udp6
from tests.unit.vl2.vl2_lab import ALICE, BOB, CONTROLLER, MALLORY, NWID, ROOT, WALL, Wire, frame, member_config
from ztnode.vl2.flow_filter import PASSED, REFUSED, FlowFilter
from ztnode.vl2.forwarding import MATCHES_RATE, MAX_MATCHES
from ztnode.vl2.rule_filter import DEAR, MAX_REMEMBERED, Filter
from ztnode.vl2.subscriptions import Subscriptions
from ztnode.wire.dictionary import MAX_DICTIONARY_SIZE, Dictionary
from ztnode.wire.mac import BROADCAST
from ztnode.wire.multicast import Gather, Like, MulticastGroup, build_gather, build_likes
from ztnode.wire.network_config import NetworkConfig
from ztnode.wire.packet import (
    VERB_MULTICAST_GATHER,
    VERB_MULTICAST_LIKE,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_OK,
)
from ztnode.wire.rules import Range, Rule
from ztnode.wire.rules import RuleType as T
from ztnode.wire.wire_error import WireError

ACCEPT, DROP = Rule(T.ACTION_ACCEPT), Rule(T.ACTION_DROP)


def dear_rules(count: int, kind: int = T.MATCH_IP_DEST_PORT_RANGE, value: Any = None) -> list[Rule]:
    """So many sets that all look at the frame, and then everything passes but port 99."""
    sets = [[Rule(kind, Range(50000 + n, 50000 + n) if value is None else value), DROP] for n in range(count)]
    last = [Rule(T.MATCH_IP_DEST_PORT_RANGE, Range(99, 99)), DROP, ACCEPT]
    return [rule for set_ in sets for rule in set_] + last


def test_outcomes_of_dear_rules_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = 0
    really = Filter.evaluate

    def counted(self: Filter, packet: Any) -> Any:
        nonlocal evaluated
        evaluated += 1
        return really(self, packet)

    monkeypatch.setattr(Filter, "evaluate", counted)
    rules = FlowFilter(dear_rules(500), (), flow(), lambda *_: None)
    assert rules.cost >= 500 and rules.constant is None
    for _ in range(100):
        assert rules.passes(tcp4(dport=80)) == PASSED
        assert rules.passes(tcp4(dport=99)) == REFUSED
        assert rules.passes(tcp4(dport=50007)) == REFUSED
    assert evaluated == 3
    for port in range(2 * MAX_REMEMBERED):
        rules.passes(tcp4(sport=port, dport=80))
    assert len(rules._rules._outcomes or ()) <= MAX_REMEMBERED


@pytest.mark.parametrize("ethertype", [0x0800, 0x86DD, 0x0806])
def test_remembered_outcomes_are_those_of_the_rules(ethertype: int) -> None:
    source = random.Random(ethertype)
    kinds: list[tuple[T, Callable[[], Any]]] = [
        (T.MATCH_IP_DEST_PORT_RANGE, lambda: Range(source.randrange(3), source.randrange(3))),
        (T.MATCH_IP_SOURCE_PORT_RANGE, lambda: Range(0, source.randrange(3))),
        (T.MATCH_IP_PROTOCOL, lambda: source.choice((0, 1, 6, 17))),
        (T.MATCH_CHARACTERISTICS, lambda: source.choice((1, 2, 0x10))),
        (T.MATCH_FRAME_SIZE_RANGE, lambda: Range(0, source.randrange(90))),
    ]
    for _ in range(20):
        rules = []
        for _ in range(DEAR):
            kind, value = source.choice(kinds)
            rules += [
                Rule(kind, value(), source.random() < 0.5),
                Rule(T.MATCH_IP_PROTOCOL, 6),
                source.choice((ACCEPT, DROP)),
            ]
        built = Filter(rules, flow(ethertype=ethertype))
        for _ in range(200):
            packet = bytearray(
                source.choice((tcp4(source.randrange(3), source.randrange(3)), udp6(source.randrange(3))))
            )
            packet[source.randrange(len(packet))] = source.randrange(7)
            cut = bytes(packet[: source.choice((len(packet), source.randrange(len(packet))))])
            expected = built.evaluate(cut)
            assert (built.known(cut) or built.learn(cut)) == expected
            assert (built.known(cut) or built.learn(cut)) == expected


def test_dear_network_slows_itself_down_alone(pair: Wire) -> None:
    """A thousand matches at random: nothing can be remembered, so the network has a budget."""
    rules = tuple(dear_rules(500, T.MATCH_RANDOM, 0))
    config = member_config(ALICE, timestamp=WALL + 1, rules=rules)
    for chunk in pair.chunks(config):
        pair.deliver(CONTROLLER, ALICE, VERB_NETWORK_CONFIG, chunk)
    pair.log.clear()
    pair.send(ALICE, *[frame(ALICE, BOB, tcp4())] * 2000)
    rate, burst = MATCHES_RATE
    assert len(pair.sent(ALICE, BOB)) <= burst / 500 + 5
    assert pair.nodes[ALICE].counters["drop_rules_too_dear"] >= 1700
    pair.now += 1.0
    pair.send(ALICE, frame(ALICE, BOB, tcp4()))
    assert pair.nodes[ALICE].counters["drop_rules_too_dear"] < 2000 and rate > 0


def test_filters_are_bounded_by_their_matches(pair: Wire) -> None:
    config = member_config(ALICE, timestamp=WALL + 1, rules=tuple(dear_rules(500)))
    for chunk in pair.chunks(config):
        pair.deliver(CONTROLLER, ALICE, VERB_NETWORK_CONFIG, chunk)
    for ethertype in range(0x0600, 0x0900):
        pair.send(ALICE, frame(ALICE, BOB, tcp4(), ethertype), frame(ALICE, BOB, tcp4()))
    forwarding = pair.nodes[ALICE]._networks[NWID].forwarding
    assert sum(filter_.cost for filter_ in forwarding._filters.values()) <= MAX_MATCHES


def test_dictionary_of_half_a_megabyte_is_read_in_few_passes() -> None:
    """Escapes or lines alone, as a hostile controller's packets unpack to."""
    for escape, meaning in ((b"\\0", b"\0"), (b"\\\\", b"\\"), (b"\\e", b"="), (b"\\x", b"x")):
        count = (MAX_DICTIONARY_SIZE - 2) // 2
        dictionary = Dictionary.parse(b"R=" + escape * count)
        assert dictionary["R"] == meaning * count
        assert Dictionary.parse(Dictionary({"R": b"\0\n\r\\="}).build())["R"] == b"\0\n\r\\="
    with pytest.raises(WireError):
        Dictionary.parse(b"\n" * MAX_DICTIONARY_SIZE)
    with pytest.raises(WireError):
        Dictionary.parse(b"\n".join(b"%d=" % number for number in range(60000)))


def test_multicast_likes_are_gated_by_peer(wire: Wire) -> None:
    root = wire.add(ROOT, is_upstream=lambda: True)
    for round_ in range(40):
        likes = [Like(NWID, MulticastGroup(BROADCAST, round_ * 500 + number)) for number in range(500)]
        wire.deliver(MALLORY, ROOT, VERB_MULTICAST_LIKE, build_likes(likes))
    assert len(root._foreign) <= 4096
    assert root.counters["drop_rate_multicast_like"] >= 30
    wire.deliver(BOB, ROOT, VERB_MULTICAST_LIKE, build_likes([Like(NWID, MulticastGroup(BROADCAST))]))
    assert BOB in root._foreign.members(Like(NWID, MulticastGroup(BROADCAST)))


def test_gathers_are_gated_by_peer(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.add(ROOT, is_upstream=lambda: True)
    asked = 0
    really = Subscriptions.gather

    def counted(self: Any, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        return really(self, *args)

    monkeypatch.setattr(Subscriptions, "gather", counted)
    for _ in range(1000):
        gather = build_gather(Gather(NWID, MulticastGroup(BROADCAST), 1000))
        wire.deliver(MALLORY, ROOT, VERB_MULTICAST_GATHER, gather)
    assert 0 < asked <= 300


# Older configurations


def config(timestamp: int, revision: int, name: str) -> NetworkConfig:
    return member_config(ALICE, timestamp=timestamp, revision=revision, name=name)


@pytest.mark.parametrize(("timestamp", "revision"), [(WALL + 4, 9), (WALL + 5, 6)])
@pytest.mark.parametrize("sender", [CONTROLLER, MALLORY])
@pytest.mark.parametrize("restarted", [False, True])
def test_older_configuration_is_refused_from_anyone(
    wire: Wire, timestamp: int, revision: int, sender: int, restarted: bool
) -> None:
    held = config(WALL + 5, 7, "new")
    wire.configs[ALICE] = held
    cached = held.build() if restarted else None
    wire.add(ALICE).join(NWID, wire.now, cached=cached)
    if not restarted:
        wire.settle()
    else:
        wire.queue.clear()  # the controller is silent
    recorded = wire.chunks(config(timestamp, revision, "old"))[0]
    wire.deliver(sender, ALICE, VERB_NETWORK_CONFIG, recorded)
    wire.deliver(sender, ALICE, VERB_OK, bytes((VERB_NETWORK_CONFIG_REQUEST,)) + bytes(8) + recorded)
    assert wire.network(ALICE).name == "new"
    assert wire.stored.get(ALICE, held.build()) == held.build()
    assert wire.nodes[ALICE].counters["drop_older_config"] >= 1


def test_controller_whose_clock_was_set_back_is_believed_when_asked(wire: Wire) -> None:
    wire.configs[ALICE] = config(WALL + 5, 7, "new")
    wire.add(ALICE).join(NWID, wire.now)
    wire.settle()
    wire.configs[ALICE] = config(WALL, 8, "set back")
    wire.run(61)
    assert wire.network(ALICE).name == "set back"
