"""A lane against VL1's own codec: what one seals the other opens, and what is not its goes to the node as it came."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vl1.vl1_network import IDENTITIES
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.fragment import OFFSET_DATA, split
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import (
    CIPHER_AES_GMAC_SIV,
    CIPHER_POLY1305_SALSA2012,
    OFFSET_FLAGS,
    VERB_ECHO,
    VERB_EXT_FRAME,
    VERB_FRAME,
)
from ztnode.worker.lane import MAX_EARLY, Lane
from ztnode.worker.protocol import LaneTerms, LaneUp

OWN, PEER = IDENTITIES[1], IDENTITIES[2]
KEYS = PeerKeys(OWN.agree(PEER))
THEIRS = PeerKeys(PEER.agree(OWN))
NWID = 0x9AD07D01093A69E3
OWN_MAC, PEER_MAC = 0x32AABBCCDD01, 0x32AABBCCDD02
MACS_IN = OWN_MAC.to_bytes(6, "big") + PEER_MAC.to_bytes(6, "big")
MACS_OUT = PEER_MAC.to_bytes(6, "big") + OWN_MAC.to_bytes(6, "big")
IPV4, IPV6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
MTU = 1432
NOW, UNTIL = 100.0, 130.0


def lane(*, mtu: int = MTU, remembered: int = 1000, seen: bytes = b"") -> Lane:
    k0, k1 = KEYS.aes_keys()
    up = LaneUp(5, 0, NWID, OWN.address, PEER.address, OWN_MAC, PEER_MAC, mtu, remembered, k0 + k1, seen)
    made = Lane(up, AesGmacSiv(k0, k1), lambda count: bytes(range(count)))
    made.agree(LaneTerms(5, (0x0800, 0x86DD), UNTIL))
    return made


class Remote:
    """The peer: seals as VL1 does."""

    def __init__(self) -> None:
        self._id = 1 << 40

    def packet(
        self,
        body: bytes,
        *,
        verb: int = VERB_FRAME,
        nwid: int = NWID,
        ethertype: bytes = IPV4,
        cipher: int = CIPHER_AES_GMAC_SIV,
        mtu: int = MTU,
    ) -> bytes:
        self._id += 1
        parts = (bytes((verb,)), nwid.to_bytes(8, "big"), ethertype, body)
        return THEIRS.seal(self._id, OWN.address, PEER.address, parts, cipher, mtu)

    def text(self, text: bytes, *, forged: bool = False) -> bytes:
        """A packet with any plaintext. ``forged``: it is not authentic, and yet this is what it decrypts to."""
        self._id += 1
        packet = THEIRS.seal(self._id, OWN.address, PEER.address, (text,))
        if not forged:
            return packet
        cipher = AesGmacSiv(*THEIRS.aes_keys())
        others = cipher.seal(
            self._id.to_bytes(8, "big"), packet[8:18] + b"\x98", (text,)
        )  # the flags are authenticated
        return others[:18] + packet[18:19] + others[19:]


def joined(datagrams: Sequence[bytes]) -> list[bytes]:
    """The packets, whose pieces follow each other."""
    packets: list[bytes] = []
    for datagram in datagrams:
        if datagram[13] == 0xFF:
            packets[-1] += datagram[16:]
        else:
            packets.append(datagram)
    return packets


def received(made: Lane, datagrams: Sequence[bytes], now: float = NOW) -> tuple[list[bytes], list[bytes]]:
    frames, rest = made.receive(datagrams, now)
    return [bytes(frame) for frame in frames], rest


@given(st.lists(st.binary(min_size=1, max_size=2790), max_size=12), st.integers(1, 12))
def test_frames_of_a_peer_arrive_in_order_however_they_are_read(bodies: list[bytes], step: int) -> None:
    made, remote = lane(), Remote()
    datagrams = [piece for body in bodies for piece in split(remote.packet(body), MTU)]
    frames: list[bytes] = []
    for start in range(0, len(datagrams), step):
        some, rest = received(made, datagrams[start : start + step])
        assert not rest
        frames += some
    assert frames == [MACS_IN + IPV4 + body for body in bodies]
    used = made.used()
    assert (used.received, used.octets_received) == (len(bodies), sum(map(len, frames)))
    assert used.datagrams_received == len(datagrams)
    assert used.datagram_octets_received == sum(map(len, datagrams))
    assert made.used().received == 0


@given(st.lists(st.binary(min_size=1, max_size=2786), min_size=1, max_size=12), st.sampled_from([1432, 1280, 2800]))
def test_a_peer_opens_what_a_lane_seals(bodies: list[bytes], mtu: int) -> None:
    made = lane(mtu=mtu)
    frames = [(MACS_OUT + IPV6 + body[:7], memoryview(body)[7:]) for body in bodies]
    datagrams = made.seal(frames, NOW)
    assert all(len(datagram) <= mtu for datagram in datagrams)
    packets = joined(datagrams)
    head = bytes((VERB_FRAME,)) + NWID.to_bytes(8, "big") + IPV6
    assert THEIRS.open_many(packets) == [head + body for body in bodies]
    assert len({packet[:8] for packet in packets}) == len(bodies)
    used = made.used()
    assert (used.sent, used.last_sent) == (len(bodies), NOW)
    assert used.octets_sent == sum(len(body) + 14 for body in bodies)
    assert used.datagram_octets_sent == sum(map(len, datagrams))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Remote().packet(b"x", verb=VERB_ECHO), id="another verb"),
        pytest.param(Remote().packet(b"x", verb=VERB_EXT_FRAME), id="EXT_FRAME"),
        pytest.param(Remote().packet(b"x", verb=VERB_FRAME | 0x80), id="compressed"),
        pytest.param(Remote().packet(b"x", nwid=NWID + 1), id="another network"),
        pytest.param(Remote().packet(b"x", ethertype=ARP), id="ARP"),
        pytest.param(Remote().packet(b"x", cipher=CIPHER_POLY1305_SALSA2012), id="an older suite"),
        pytest.param(bytes(Remote().packet(b"x"))[:18] + b"\x19" + bytes(Remote().packet(b"x"))[19:], id="relayed"),
        pytest.param(bytes(8) + bytes(5) + Remote().packet(b"x")[13:], id="for somebody else"),
        pytest.param(Remote().packet(b"x")[:13] + bytes(5) + Remote().packet(b"x")[18:], id="of somebody else"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff" * 20, id="too short"),
        pytest.param(bytes(8) + OWN.address.to_bytes(5, "big") + b"\xff\x31\0" + bytes(900), id="one of three"),
        pytest.param(bytes(8) + OWN.address.to_bytes(5, "big") + b"\xff\x21\0" + bytes(900), id="a second half alone"),
    ],
)
def test_what_is_not_the_lanes_goes_to_the_node_as_it_came(other: bytes) -> None:
    made, remote = lane(), Remote()
    before, after = remote.packet(b"before"), remote.packet(b"after")
    frames, rest = received(made, [before, other, after])
    assert frames == [MACS_IN + IPV4 + b"before", MACS_IN + IPV4 + b"after"]
    assert rest == [other]
    assert made.opened_ids == [before[:8], after[:8]]


@pytest.mark.parametrize("verb", [VERB_ECHO, VERB_FRAME])
def test_what_was_joined_in_vain_goes_to_the_node_as_it_came(verb: int) -> None:
    """The header of a joined packet says that fragments follow, for which the node would wait."""
    made, remote = lane(), Remote()
    if verb == VERB_FRAME:
        made.agree(LaneTerms(5, (), 0.0))
    halves = split(remote.packet(bytes(2000), verb=verb), MTU)
    assert received(made, halves[:1]) == ([], [])
    assert received(made, halves[1:]) == ([], halves)
    used = made.used()
    assert (used.datagrams_received, used.datagram_octets_received) == (0, 0), "the node counts them"


def test_halves_that_do_not_meet_go_to_the_node_one_by_one() -> None:
    made, remote = lane(), Remote()
    first, second = (split(remote.packet(bytes(2000)), MTU) for _ in range(2))
    frames, rest = received(made, [first[0], second[0], first[1], second[1]])
    assert not frames[1:]
    assert rest == [first[0], first[1]]
    assert frames == [MACS_IN + IPV4 + bytes(2000)]


@pytest.mark.parametrize("more", [1, 11, 12, 13, 1000])
def test_a_second_half_may_be_as_short_as_the_reference_makes_it(more: int) -> None:
    """It fills the head to the MTU."""
    made, body = lane(), bytes(MTU - 28 - 10 + more)
    head, tail = split(Remote().packet(body), MTU)
    packet = head + tail[OFFSET_DATA:]
    assert len(packet) == MTU + more
    pieces = [packet[:MTU], tail[:OFFSET_DATA] + packet[MTU:]]
    assert received(made, pieces) == ([MACS_IN + IPV4 + body], [])


def test_packets_in_three_go_to_the_node_whole_and_none_waits_for_the_next() -> None:
    """A peer whose path carries less than ours sends so; a question that waits for its answer is the last there is."""
    made, remote = lane(), Remote()
    pieces = split(remote.packet(bytes(2700), mtu=1000), 1000)
    assert len(pieces) == 3
    for step in (1, 2, 3):
        rest = [each for start in range(0, 3, step) for each in received(made, pieces[start : start + step])[1]]
        assert sorted(rest) == sorted(pieces)


def test_halves_in_the_wrong_order_meet_in_the_node() -> None:
    made, remote = lane(), Remote()
    head, tail = split(remote.packet(bytes(2000)), MTU)
    assert received(made, [tail, head]) == ([], [tail, head])
    pieces = split(remote.packet(bytes(2000)), MTU)
    assert received(made, pieces)[0] == [MACS_IN + IPV4 + bytes(2000)]
    assert received(made, [*reversed(pieces), *pieces]) == ([], []), "which is no new packet, in whatever order"


def test_halves_of_several_packets_in_the_wrong_order_meet_in_the_node() -> None:
    """At once: none waits here for what comes next, and what comes twice is not taken here."""
    made, remote = lane(), Remote()
    (one, one_tail), (two, two_tail) = (split(remote.packet(bytes(2000)), MTU) for _ in range(2))
    batch = [one_tail, two_tail, one, two, one, one_tail]
    assert received(made, batch) == ([], batch)


def test_a_lane_remembers_few_halves_that_came_early() -> None:
    made, remote = lane(), Remote()
    packets = [split(remote.packet(bytes(2000)), MTU) for _ in range(MAX_EARLY + 1)]
    tails = [tail for _, tail in packets]
    assert received(made, tails) == ([], tails)
    heads = [head for head, _ in reversed(packets)]
    assert received(made, heads) == ([], heads[:-1]), "the oldest was forgotten, and its head waits"
    assert len(made._early) == MAX_EARLY


def test_halves_that_are_too_long_together_are_no_packet_here() -> None:
    made = lane()
    (head, tail) = split(Remote().packet(bytes(9000), mtu=6000), 6000)
    long_tail = tail + bytes(9000)
    frames, rest = received(made, [head, long_tail])
    assert not frames
    assert rest == [head, long_tail]


def test_what_came_before_is_dropped_before_it_costs_anything() -> None:
    made, packet = lane(), Remote().packet(b"once")
    assert received(made, [packet])[0] == [MACS_IN + IPV4 + b"once"]
    assert received(made, [packet, packet]) == ([], [])
    assert made.used().duplicates == 2


def test_what_the_node_took_is_a_replay_here_too() -> None:
    made, packet = lane(), Remote().packet(b"x")
    made.agree(LaneTerms(5, (), 0.0))
    assert received(made, [packet]) == ([], [packet])
    made.agree(LaneTerms(5, (0x0800,), UNTIL))
    assert received(made, [packet]) == ([], [])
    told = lane(seen=packet[:8])
    assert received(told, [packet]) == ([], [])
    assert told.used().duplicates == 1


def test_what_is_not_authentic_is_dropped_and_remembered_of_nobody() -> None:
    made, packet = lane(), Remote().packet(b"once")
    for position in (0, 20, 27, len(packet) - 1):
        forged = bytearray(packet)
        forged[position] ^= 1
        assert received(made, [bytes(forged)]) == ([], [])
    assert made.used().invalid == 4
    assert received(made, [packet])[0] == [MACS_IN + IPV4 + b"once"]


def test_memory_of_ids_is_bounded() -> None:
    made, remote = lane(remembered=16), Remote()
    packets = [remote.packet(b"x") for _ in range(100)]
    received(made, packets)
    assert not received(made, packets[-16:])[0]
    assert len(received(made, packets[:16])[0]) == 16  # no worse than the node, which forgets, too


@pytest.mark.parametrize("terms", [LaneTerms(5, (), 0.0), LaneTerms(5, (0x0800,), NOW), LaneTerms(5, (0x86DD,), UNTIL)])
def test_without_terms_nothing_takes_the_lane(terms: LaneTerms) -> None:
    made, remote = lane(), Remote()
    packet = remote.packet(b"x")
    assert made.heads == (MACS_OUT + IPV4, MACS_OUT + IPV6)
    made.agree(terms)
    assert MACS_OUT + IPV4 not in made.heads or terms.until <= NOW
    assert received(made, [packet]) == ([], [packet])
    assert not made.opened_ids
    made.agree(LaneTerms(5, (0x0800,), UNTIL))
    assert received(made, [remote.packet(b"y")])[0] == [MACS_IN + IPV4 + b"y"]
    assert received(made, [Remote().packet(b"late")], UNTIL)[0] == []


@given(st.lists(st.binary(max_size=1500), max_size=20))
def test_no_datagram_upsets_a_lane(datagrams: list[bytes]) -> None:
    made = lane()
    own = OWN.address.to_bytes(5, "big")
    whole = [data[:8] + own + data[13:] if len(data) > 13 else data for data in datagrams]
    frames, rest = received(made, whole)
    assert not frames
    assert all(data in whole for data in rest)
    assert len(rest) + made.used().invalid >= len(whole) - 1  # a head may wait for its second half


def test_flags_of_a_frame_in_pieces_are_those_that_the_reference_expects() -> None:
    made = lane()
    short, long = made.seal([(MACS_OUT + IPV4, b"x")], NOW), made.seal([(MACS_OUT + IPV4, bytes(2000))], NOW)
    assert short[0][OFFSET_FLAGS] == 0x18
    assert [piece[13] for piece in long][1:] == [0xFF]
    assert long[0][OFFSET_FLAGS] == 0x58
