"""The way of a UDP socket to one remote, with the headers made ready."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from ztnode.netstack.flow import Flow
from ztnode.netstack.frame import Frame
from ztnode.wire import checksum, ipv4, udp
from ztnode.wire.buffer import Buffer

_HEADERS: Final = struct.Struct("!16sH5sBH8sHHH")
"""Ethernet and IP as far as the total length, that, as far as the protocol, that, the IP checksum, both addresses, and
UDP: ports, length."""


class UdpWay:
    """A flow, and over IPv4 what all datagrams to one host have in common."""

    __slots__ = ("_addresses", "_fields", "_generation", "_link", "_pseudo", "_sum", "flow", "room")

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.room = -1
        """Bytes of payload for which ``frame`` has the headers; -1: for none."""
        self._generation = -1
        self._link = self._fields = self._addresses = b""
        self._sum = self._pseudo = 0

    def fits(self, payload: Buffer) -> bool:
        """Whether ``frame`` and ``frames`` make one packet of it. Not to be asked of a group or broadcast address."""
        if self._generation != self.flow.generation:
            self._generation = self.flow.generation
            if len(self.flow.remote) == 4:
                self._prepare()
        return len(payload) <= self.room

    def _prepare(self) -> None:
        flow = self.flow
        header = flow.header  # TCP's
        self.room = flow.mtu - ipv4.HEADER_LENGTH - udp.HEADER_LENGTH
        self._link = header[:16]
        self._fields = header[18:23]
        self._addresses = flow.local + flow.remote
        # Without the length, and with our protocol, which is the low byte of its word.
        self._sum = checksum.region_sum(header[14:]) - header[23] + ipv4.PROTOCOL_UDP
        self._pseudo = checksum.pseudo_sum(flow.local, flow.remote, ipv4.PROTOCOL_UDP)

    def frames(self, source: int, destination: int, payloads: Sequence[Buffer]) -> list[Frame]:
        """A datagram for each of several payloads that fit, none of them empty, from port to port."""
        frames: list[Frame] = []
        start = b""
        size = base = 0
        for payload, total in zip(payloads, checksum.sums_of(payloads), strict=True):
            if len(payload) != size:  # those of one run mostly have one length
                size = len(payload)
                length = udp.HEADER_LENGTH + size
                start = self._start(source, destination, length)
                base = self._pseudo + source + destination + 2 * length
            # A sum of zero goes as all ones (RFC 768).
            field = checksum.MODULUS - (total * checksum.NATIVE_FACTOR + base) % checksum.MODULUS
            frames.append((start + field.to_bytes(2, "big"), payload))
        return frames

    def frame(self, source: int, destination: int, payload: bytes) -> Frame:
        """A datagram that ``fits``, from port to port."""
        field = udp.checksum_field(source, destination, payload, self._pseudo)
        start = self._start(source, destination, udp.HEADER_LENGTH + len(payload))
        return start + field.to_bytes(2, "big"), payload

    def _start(self, source: int, destination: int, length: int) -> bytes:
        """The headers of a datagram of ``length`` bytes but for its checksum."""
        total = ipv4.HEADER_LENGTH + length
        return _HEADERS.pack(
            self._link,
            total,
            self._fields,
            ipv4.PROTOCOL_UDP,
            checksum.finish(self._sum + total),
            self._addresses,
            source,
            destination,
            length,
        )
