"""What tests look at in a packet that nothing else needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ztnode.wire import packet
from ztnode.wire.fragment import OFFSET_DATA, OFFSET_HOPS, OFFSET_NUMBER, is_fragment
from ztnode.wire.packet import FLAG_FRAGMENTED, MAX_HOPS, MAX_PACKET_FRAGMENTS, OFFSET_FLAGS
from ztnode.wire.wire_error import WireError

VERB_NAMES: Final = {
    value: name.removeprefix("VERB_")
    for name, value in vars(packet).items()
    if name.startswith("VERB_") and name not in ("VERB_MASK", "VERB_FLAG_COMPRESSED")
}


def cipher_suite(data: bytes) -> int:
    """Which ``CIPHER_…`` protects this packet."""
    return data[OFFSET_FLAGS] >> 3 & 7


def is_fragmented(data: bytes) -> bool:
    """Whether this packet is the head of several fragments."""
    return bool(data[OFFSET_FLAGS] & FLAG_FRAGMENTED)


@dataclass(frozen=True, slots=True)
class FragmentView:
    """A fragment that is not the head of its packet."""

    packet_id: int
    destination: int
    number: int
    total: int
    hops: int
    data: bytes


def parse_fragment(datagram: bytes) -> FragmentView:
    """Split a fragment into its fields. WireError unless 1 ≤ number < total ≤ 7."""
    if not is_fragment(datagram):
        raise WireError("not a fragment")
    total, number = datagram[OFFSET_NUMBER] >> 4, datagram[OFFSET_NUMBER] & 0x0F
    if not 1 <= number < total <= MAX_PACKET_FRAGMENTS:
        raise WireError(f"fragment {number} of {total}")
    hops = datagram[OFFSET_HOPS] & MAX_HOPS
    ids = int.from_bytes(datagram[:8], "big"), int.from_bytes(datagram[8:13], "big")
    return FragmentView(*ids, number, total, hops, datagram[OFFSET_DATA:])
