"""The fragments of one datagram meet in the worker that has its socket, in any order and within bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.node.fragment_steering import MAX_DATAGRAMS, MAX_HELD, SECONDS, FragmentSteering
from ztnode.node.steering import Steering
from ztnode.ring import Record
from ztnode.wire import ipv4, ipv6
from ztnode.wire.ipv6 import NEXT_FRAGMENT

KEY = (0, b"addresses", 17, b"id")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fragments(family: int, payload: bytes, identification: int, size: int = 512) -> list[Record]:
    frames: list[Record] = []
    for offset in range(0, len(payload), size):
        piece, more = payload[offset : offset + size], offset + size < len(payload)
        if family == 4:
            header = struct.pack(
                "!BBHHHBBH4s4s",
                *(0x45, 0, 20 + len(piece), identification, more << 13 | offset >> 3, 64, 17, 0),
                *(b"\x0a001", b"\x0a002"),
            )
        else:
            header = struct.pack("!IHBB", 6 << 28, 8 + len(piece), NEXT_FRAGMENT, 64) + bytes(15) + b"1" + bytes(15)
            header += b"2" + struct.pack("!BBHI", 17, 0, offset | more, identification)
        ethertype = b"\x08\x00" if family == 4 else b"\x86\xdd"
        frames.append((7, (bytes(12) + ethertype, header + piece)))
    return frames


@pytest.mark.parametrize("family", [4, 6])
@given(port=st.integers(1, 65535), data=st.data())
def test_all_fragments_reach_the_owner_of_the_port_in_any_order(family: int, port: int, data: st.DataObject) -> None:
    steering = Steering(3, {})
    payload = struct.pack("!HHHH", 53, port, 2000, 0) + bytes(1992)
    frames = fragments(family, payload, 99)
    got: list[list[Record]] = [[], [], []]
    for frame in data.draw(st.permutations(frames)):
        for worker, share in enumerate(steering.split([frame])):
            got[worker] += share
    owner = steering.udp_owner(port)
    assert [len(share) for share in got] == [len(frames) if worker == owner else 0 for worker in range(3)]
    assert {b"".join(parts) for _, parts in got[owner]} == {b"".join(parts) for _, parts in frames}
    assert not len(steering.fragments), "a datagram that has passed leaves nothing behind"


def test_codec_of_the_stack_agrees_about_what_a_fragment_is() -> None:
    [first, last] = fragments(4, bytes(1024), 5)
    header, _ = ipv4.parse(bytes(last[1][1]), quoted=True)
    assert (header.fragment_offset, header.more_fragments, header.identification) == (512, False, 5)
    [first, last] = fragments(6, bytes(1024), 5)
    header6, rest = ipv6.parse(bytes(first[1][1]))
    fragment = ipv6.parse_extensions(header6.next_header, rest).fragment
    assert fragment is not None
    assert (fragment.offset, fragment.more, fragment.identification) == (0, True, 5)


def test_what_waits_is_copied() -> None:
    steering = FragmentSteering({}, Clock())
    memory = bytearray(b"frame")
    assert steering.add(KEY, None, 8, 8, False, (7, (memoryview(memory),))) == (0, [])
    memory[:] = b"other"
    owner, ready = steering.add(KEY, 2, 0, 8, True, (7, (b"first",)))
    assert (owner, ready) == (2, [(7, (b"first",)), (7, (b"frame",))])


def test_first_fragment_of_the_next_datagram_takes_the_identification_over() -> None:
    steering = FragmentSteering({}, Clock())
    steering.add(KEY, 1, 0, 8, True, (7, (b"a",)))  # its last fragment was lost
    assert steering.add(KEY, 2, 0, 8, True, (7, (b"b",)))[0] == 2
    assert steering.add(KEY, None, 8, 8, False, (7, (b"c",)))[0] == 2


def test_waiting_ends() -> None:
    clock, counters = Clock(), dict[str, int]()
    steering = FragmentSteering(counters, clock)
    steering.add(KEY, None, 8, 8, False, (7, (b"late",)))
    clock.now += SECONDS
    assert steering.add(KEY, 1, 0, 8, True, (7, (b"first",))) == (1, [(7, (b"first",))])
    assert counters["fragments_lost"] == 1


def test_flood_of_fragments_is_bounded() -> None:
    counters: dict[str, int] = {}
    steering = FragmentSteering(counters, Clock())
    for number in range(5000):
        steering.add((0, b"", 17, number.to_bytes(2, "big")), None, 8, 1400, True, (7, (bytes(1400),)))
        assert len(steering) <= MAX_DATAGRAMS
        assert steering._held <= MAX_HELD
    assert counters["fragments_lost"] > 4000
    for number in range(5000):
        steering.add((0, b"", 17, number.to_bytes(2, "big")), 0, 0, 1400, True, (7, (b"",)))
    assert len(steering) == MAX_DATAGRAMS
    assert steering._held == 0
