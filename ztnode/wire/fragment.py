"""Fragments of VL1 packets larger than the path's MTU (reference: Packet.hpp, class Packet::Fragment).

::

    0               8              13     14            15     16
    +---------------+--------------+------+-------------+------+------------
    | packet id     | destination  | 0xff | total, no.  | hops | data
    | 8             | 5            | 1    | 4 bits each | 1    |
    +---------------+--------------+------+-------------+------+------------

Fragment 0 is the packet's own head, cut off at the MTU, with ``FLAG_FRAGMENTED`` in its header. There is no MAC
per fragment: the whole is authenticated when it is together again.
"""

from __future__ import annotations

from typing import Final

from ztnode.wire.address import ADDRESS_RESERVED_PREFIX
from ztnode.wire.buffer import Buffer
from ztnode.wire.packet import MAX_HOPS, MAX_PACKET_FRAGMENTS, MAX_PACKET_LENGTH
from ztnode.wire.wire_error import WireError

OFFSET_INDICATOR: Final = 13
OFFSET_NUMBER: Final = 14
OFFSET_HOPS: Final = 15
OFFSET_DATA: Final = 16
MIN_FRAGMENT_LENGTH: Final = OFFSET_DATA
INDICATOR: Final = ADDRESS_RESERVED_PREFIX
SECOND_OF_TWO: Final = 0x21
"""In a fragment: there are two, and this is number 1."""
_BEFORE_HOPS: Final = bytes((INDICATOR, SECOND_OF_TWO))
_NO_HOPS: Final = bytes((INDICATOR, SECOND_OF_TWO, 0))
_WHOSE: Final = slice(OFFSET_INDICATOR)
_DATA: Final = slice(OFFSET_DATA, None)
"""Slices that are made once: tens of thousands of frames are joined a second."""


def is_fragment(datagram: Buffer) -> bool:
    """Whether a received datagram is a fragment other than a head. Too short a datagram is none."""
    return len(datagram) > OFFSET_DATA and datagram[OFFSET_INDICATOR] == INDICATOR


def join_halves(head: bytes, second: bytes) -> bytes | None:
    """The whole packet, if these are the two datagrams of one, as those of nearly every frame are; else None.

    For what comes one right after the other: the rest is for ``vl1/packet_assembler.py``. ``head`` is one (with
    ``FLAG_FRAGMENTED``), not nothing; ``second`` may be any datagram.
    """
    if not second.startswith(head[_WHOSE] + _BEFORE_HOPS):
        return None
    whole = head + second[_DATA]
    return whole if len(whole) <= MAX_PACKET_LENGTH else None


def with_hop_added(datagram: Buffer) -> bytes:
    """The fragment as a relay passes it on: one hop more. WireError if it is no fragment."""
    if not is_fragment(datagram):
        raise WireError("not a fragment")
    count = min((datagram[OFFSET_HOPS] & MAX_HOPS) + 1, MAX_HOPS)
    return b"".join((datagram[:OFFSET_HOPS], bytes((count,)), datagram[OFFSET_DATA:]))


def split(packet: bytes, mtu: int) -> list[bytes]:
    """Cut a sealed packet into datagrams of at most ``mtu`` bytes, head first, all of one size but for a shorter last.

    The reference fills the head and the first fragments to the MTU; equal sizes take no more datagrams, any receiver
    joins them alike, and they let the kernel take a run of packets in one call (UDP_SEGMENT wants equal sizes).
    The packet must have been sealed with the same ``mtu``, so that its header says that it is fragmented.
    ValueError if it would take more than 7 datagrams.
    """
    length = len(packet)
    if length <= mtu:
        return [packet]
    if mtu <= OFFSET_DATA:
        raise ValueError(f"datagrams of {mtu} bytes have no room for a fragment")
    total = 1 + -(-(length - mtu) // (mtu - OFFSET_DATA))
    if total > MAX_PACKET_FRAGMENTS:
        raise ValueError(f"{length} bytes need {total} datagrams of {mtu} bytes; {MAX_PACKET_FRAGMENTS} is the most")
    size = -(-(length + OFFSET_DATA * (total - 1)) // total)
    if total == 2:  # a frame, that is: nearly all that is ever cut
        return [packet[:size], b"".join((packet[_WHOSE], _NO_HOPS, packet[size:]))]
    room = size - OFFSET_DATA
    view = memoryview(packet)
    prefix = packet[:13] + bytes((INDICATOR,))
    datagrams = [packet[:size]]
    for number in range(1, total):
        start = size + (number - 1) * room
        datagrams.append(b"".join((prefix, bytes((total << 4 | number, 0)), view[start : start + room])))
    return datagrams
